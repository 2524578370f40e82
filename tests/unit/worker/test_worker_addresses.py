import pytest

from shipoff.common.errors import InvalidInput
from shipoff.worker.adapters.http import HttpSender, is_public, resolve


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.9.9.9",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.2.1",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "198.18.0.1",
        "::1",
        "::",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:a9fe:a9fe",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2001:0:1::",
        "2001:db8::1",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


def sender(allowed: frozenset[str] = frozenset(), *addresses: str) -> HttpSender:
    async def known(host: str, port: int) -> list[str]:
        return list(addresses) if addresses else await resolve(host, port)

    return HttpSender(None, allowed=allowed, resolve=known)  # type: ignore[arg-type]  # nothing is sent here


@pytest.mark.parametrize(
    "url",
    [
        "ftp://1.1.1.1/",
        "file:///etc/passwd",
        "gopher://1.1.1.1/",
        "//1.1.1.1/x",
        "nonsense",
        "http://",
        "http://1.1.1.1:99999/",
        "http://user:secret@1.1.1.1/",
        "http://user@1.1.1.1/",
        "http://1.1.1.1/\r\nX: y",
        "http://1.1.1.1/a b",
        "http://[::1/",
        "http://127.0.0.1/",
        "http://localhost/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://0/",
        "http://\uff11\uff12\uff17.0.0.1/",
    ],
)
async def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await sender().check(url)
    assert caught.value.field == "url"
    assert "secret" not in str(caught.value)


async def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    with pytest.raises(InvalidInput, match="not on the public internet"):
        await sender(frozenset(), "1.1.1.1", "10.0.0.1").check("https://mixed.example/")


async def test_a_public_name_is_fine() -> None:
    await sender(frozenset(), "1.1.1.1").check("https://good.example:8443/hook?x=1")


@pytest.mark.parametrize("entry", ["inner.example", "inner.example:9000"])
async def test_the_operator_can_allow_a_host(entry: str) -> None:
    await sender(frozenset({entry}), "10.0.0.1").check("http://Inner.Example:9000/")


async def test_an_allowed_port_allows_no_other_port() -> None:
    with pytest.raises(InvalidInput):
        await sender(frozenset({"inner.example:9000"}), "10.0.0.1").check("http://inner.example:9001/")
