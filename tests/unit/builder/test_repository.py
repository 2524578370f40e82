"""Which repositories and refs are taken."""

from __future__ import annotations

import ipaddress

import pytest

from shipoff.builder import repository
from shipoff.builder.assignment import BuildError
from shipoff.builder.repository import Repository, addresses, check_ref, is_public, parse_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://github.com/a/b.git", Repository("https://github.com/a/b.git", "github.com", 443)),
        ("https://user:pass@GitHub.com:443/a", Repository("https://github.com/a", "github.com", 443)),
        ("http://example.com:8080/a?x=1#frag", Repository("http://example.com:8080/a?x=1", "example.com", 8080)),
        ("https://[2606:4700::1]/a", Repository("https://[2606:4700::1]/a", "2606:4700::1", 443)),
    ],
)
def test_a_plain_url_is_taken_without_credentials(url, expected):
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    "url",
    ["", "ext::sh -c id", "ext::sh", "file:///etc", "/etc/passwd", "../x", "git@github.com:a/b.git", "ssh://h/x", "git://h/x",
     "-oProxyCommand=x", "--upload-pack=x", "https://", "https:///x", "https://h\nx/y", "https://h x/y", "http://0x7f000001/",
     "http://0x7f.1/", "http://2130706433/", "http://127.1/", "http://1.2.3.4.5/", "http://ex_ample.com/", "http://é.com/",
     "http://a..b/", "http://-a.com/", "http://h:99999/", "http://a%2f.com/", "https://a\\b/", "http://[::1/"],
)  # fmt: skip
def test_a_strange_url_is_refused(url):
    with pytest.raises(BuildError):
        parse_url(url)


@pytest.mark.parametrize(
    "ref", ["main", "feature/x", "v1.0", "main;curl${IFS}x|sh", "$(id)", "refs/pull/1/head", "+x", "ünïcode"]
)
def test_a_legal_ref_is_taken(ref):
    assert check_ref(ref) == ref


@pytest.mark.parametrize(
    "ref",
    ["--upload-pack=touch /tmp/x", "-x", "a b", "a..b", "a:b", "a^b", "a~1", "a?b", "a*b", "a[b", "a\\b", "a\nb", "a\x7fb", "@",
     "a@{1}", "/a", "a/", "a//b", "a.", ".a", "a/.b", "a.lock", "a.lock/b"],
)  # fmt: skip
def test_an_illegal_ref_is_refused(ref):
    with pytest.raises(BuildError):
        check_ref(ref)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "240.0.0.1",
     "::", "::1", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1",
     "64:ff9b::a00:1", "2002:7f00:1::", "2002:a00:1::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "fd00:ec2::254"],
)  # fmt: skip
def test_private_addresses_are_not_public_however_they_are_written(address):
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "140.82.121.4", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_public_addresses_are_public(address):
    assert is_public(ipaddress.ip_address(address))


def test_one_private_address_among_public_ones_is_enough(monkeypatch):
    answer = [(2, 1, 6, "", (address, 443)) for address in ("1.1.1.1", "10.0.0.1")]
    monkeypatch.setattr(repository.socket, "getaddrinfo", lambda *_, **__: answer)
    with pytest.raises(BuildError, match="private address"):
        addresses(parse_url("https://two.example/x"), (), required=True)


def test_the_operators_list_allows_a_host_with_or_without_its_port():
    there = parse_url("http://127.0.0.1:3000/x")
    assert addresses(there, ["127.0.0.1:3000"], required=True) == ["127.0.0.1"]
    assert addresses(there, ["127.0.0.1"], required=True) == ["127.0.0.1"]
    with pytest.raises(BuildError):
        addresses(there, ["127.0.0.1:3001"], required=True)
