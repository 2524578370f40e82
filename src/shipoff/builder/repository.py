"""Which repositories may be cloned: what a user wrote is checked here, before git sees any of it."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from shipoff.builder.assignment import source_error

_SCHEMES = {"https": 443, "http": 80}
_HOST = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_PRINTABLE = re.compile(r"[\x21-\x7e]+")
# Networks that carry an IPv4 address inside an IPv6 one: NAT64 (RFC 6052, RFC 8215) and 6to4 (RFC 3056).
_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Repository:
    """A repository's address without credentials, and the host it names."""

    url: str
    host: str
    port: int


def parse_url(text: str) -> Repository:
    """The repository that a URL names. Raises BuildError for anything but a plain http(s) URL; credentials are dropped."""
    if not _PRINTABLE.fullmatch(text):
        raise source_error("the repository's URL holds spaces or control characters: use https://host/path")
    try:
        parts = urlsplit(text)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError as error:
        raise source_error("the repository's URL is malformed: use https://host/path") from error
    if parts.scheme not in _SCHEMES:
        raise source_error("the repository's URL has to begin with https:// or http://")
    _check_host(host)
    port = port or _SCHEMES[parts.scheme]
    shown = f"[{host}]" if ":" in host else host
    if port != _SCHEMES[parts.scheme]:
        shown = f"{shown}:{port}"
    query = f"?{parts.query}" if parts.query else ""
    return Repository(f"{parts.scheme}://{shown}{parts.path}{query}", host, port)


def _check_host(host: str) -> None:
    if ":" in host or host.replace(".", "").isdigit():
        try:
            ipaddress.ip_address(host)
        except ValueError as error:
            raise source_error(f"{host} is not an address") from error
        return
    last = host.rpartition(".")[2]
    # inet_aton(3) reads 0x7f.1 and 2130706433 as addresses; a name's last label is never a number.
    if not _HOST.fullmatch(host) or last.isdigit() or last.startswith("0x"):
        raise source_error("the repository's URL names no proper host: use https://host/path")


def check_ref(ref: str) -> str:
    """The ref as it is. Raises BuildError unless git would take it (git-check-ref-format(1)) and it is no option."""
    wrong = (
        ref.startswith(("-", "/", "."))
        or ref.endswith(("/", ".", ".lock"))
        or any(part in ref for part in ("..", "@{", "//", "/.", ".lock/"))
        or ref == "@"
        or any(character in " ~^:?*[\\" or ord(character) < 0x20 or ord(character) == 0x7F for character in ref)
    )
    if wrong:
        raise source_error(f"{ref[:80]!r} is not the name of a branch, a tag or a commit")
    return ref


def addresses(repository: Repository, allow_hosts: Iterable[str], *, required: bool) -> list[str]:
    """The addresses to connect to. Raises BuildError when one of them is not public and the host is not allowed.

    A name that cannot be resolved gives none where `required` is false: a proxy resolves it then.
    """
    try:
        found = socket.getaddrinfo(repository.host, repository.port, type=socket.SOCK_STREAM)
    except OSError as error:
        if not required:
            return []
        raise source_error(f"the host {repository.host} is not known: check the repository's URL") from error
    unique = sorted({str(entry[4][0]).partition("%")[0] for entry in found})
    if {repository.host, f"{repository.host}:{repository.port}"} & {host.lower() for host in allow_hosts}:
        return unique
    if not all(is_public(ipaddress.ip_address(address)) for address in unique):
        raise source_error(
            f"the host {repository.host} has a private address: only public repositories' hosts can be cloned from, "
            "unless the operator lists it in SHIPOFF_BUILD_ALLOW_HOSTS"
        )
    return unique


def is_public(address: Address) -> bool:
    """Whether it is an address of the public internet, seen through every way of writing an IPv4 address as IPv6."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and any(address in network for network in _NAT64):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        # Teredo hides a client's address too: nobody's repository lives there.
        if address.teredo is not None or address in ipaddress.IPv6Network("::/96"):
            return False
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast
