"""Which repository URLs and refs may be cloned, and when two URLs name the same repository. Pure; nothing is resolved here.

Whoever connects has to check the address that a name resolves to: this only refuses what is visible in the URL.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from urllib.parse import SplitResult, urlsplit

from shipoff.common.errors import InvalidInput

MOST_REF = 255

_SCHEMES = {"http": 80, "https": 443}
_HOST_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_NUMBER = re.compile(r"(?:0[xX][0-9a-fA-F]*|[0-9]+)")
_LOCAL_SUFFIXES = ("localhost", "local", "internal", "localdomain", "home.arpa")
_SCP = re.compile(r"(?:[A-Za-z0-9_.-]+@)?(?P<host>[A-Za-z0-9.-]+):(?!//)(?P<path>[^:\s][^\s]*)")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# git-check-ref-format(1), rules 4, 5 and 10.
_NOT_IN_REF = frozenset(" ~^:?*[\\")
_REMEDY = "write it as https://host/owner/name"
# An IPv4 address in the last 32 bits: NAT64 (RFC 6052), and the IPv4-compatible form (RFC 4291, 2.5.5.1).
_EMBEDDING = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))


def check_url(url: str, *, field: str, allowed: Collection[str] | None = ()) -> str:
    """The URL without credentials, when it may be cloned: http or https to a public host, or to one that is allowed.

    `allowed` lists hosts as "host" or "host:port"; None: every host is.

    Raises InvalidInput; the message never repeats the URL, which may hold a password.
    """
    if not url or len(url) > 2048 or not url.isascii() or any(ord(char) <= 32 or ord(char) == 127 for char in url):
        raise InvalidInput(f"{field} is not a URL: plain ASCII without spaces, at most 2048", field=field, remedy=_REMEDY)
    parts = _split(url, field)
    if parts.scheme not in _SCHEMES:
        raise InvalidInput(f"{field} has to begin with https:// or http://", field=field, remedy=_REMEDY)
    if "\\" in url or parts.query or parts.fragment or not parts.path.strip("/"):
        raise InvalidInput(f"{field} has to end with the repository's path", field=field, remedy=_REMEDY)
    host = (parts.hostname or "").lower().removesuffix(".")
    _check_host(host, field)
    known = allowed is None or {host, f"{host}:{parts.port or _SCHEMES[parts.scheme]}"} & {name.lower() for name in allowed}
    if not known and _is_private(host, field):
        raise InvalidInput(
            f"{field} points into a private network",
            field=field,
            remedy=(
                "use a public address; or whoever runs the platform allows this one: the line"
                f" SHIPOFF_BUILD_ALLOW_HOSTS={host}:{parts.port or _SCHEMES[parts.scheme]} in platform.env of the data folder,"
                " then stop and start"
            ),
        )
    return f"{parts.scheme}://{_authority(parts, host)}{parts.path}"


def _split(url: str, field: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise InvalidInput(f"{field} is not a URL", field=field, remedy=_REMEDY) from error
    return parts


def _authority(parts: SplitResult, host: str) -> str:
    shown = f"[{host}]" if ":" in host else host
    return shown if parts.port in (None, _SCHEMES.get(parts.scheme)) else f"{shown}:{parts.port}"


def _check_host(host: str, field: str) -> None:
    if _address(host, field) is None and not all(_HOST_LABEL.fullmatch(label) for label in host.split(".")):
        raise InvalidInput(f"{field} names no valid host", field=field, remedy=_REMEDY)


def _is_private(host: str, field: str) -> bool:
    address = _address(host, field)
    if address is not None:
        return not _is_public(address)
    return any(host == suffix or host.endswith(f".{suffix}") for suffix in _LOCAL_SUFFIXES)


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(host: str, field: str) -> _Address | None:
    """The address a host is written as; None for a name.

    A host that ends in a number is an IPv4 address to every client (WHATWG URL, "ends in a number"), also as 0x7f.1 or
    2130706433: only the usual form is taken.
    """
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        if ":" in host or _NUMBER.fullmatch(host.rpartition(".")[2]):
            raise InvalidInput(f"{field} has an address in an unusual form", field=field, remedy=_REMEDY) from None
        return None


def _is_public(address: _Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if any(address in network for network in _EMBEDDING):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(inner)
    return address.is_global and not address.is_multicast


def follow_url(url: str, *, field: str, allowed: Collection[str] = ()) -> str:
    """The URL a project follows; the SSH forms that a forge shows are taken as their https twin. Raises InvalidInput."""
    return check_url(_as_https(url), field=field, allowed=allowed)


def _as_https(url: str) -> str:
    if url.startswith("ssh://"):
        parts = _split(url, "repository.url")
        return f"https://{parts.hostname}{parts.path}"
    scp = _SCP.fullmatch(url)
    return f"https://{scp['host']}/{scp['path'].lstrip('/')}" if scp else url


def repository_key(url: str) -> str:
    """What two URLs of one repository have in common: host and path, in small letters, without .git.

    Raises InvalidInput when it is no URL of a repository at all.
    """
    parts = _split(check_url(_as_https(url), field="repository.url", allowed=None), "repository.url")
    path = parts.path.strip("/").lower().removesuffix(".git").rstrip("/")
    return f"{_authority(parts, parts.hostname or '')}/{path}".lower()


def check_ref(ref: str, *, field: str) -> str:
    """The ref, when git allows it as the name of a branch or tag (git-check-ref-format(1)). Raises InvalidInput.

    Legal but strange names pass: they are only ever one argument of a program.
    """
    if not _is_ref(ref):
        raise InvalidInput(
            f"{field} is not a name that git allows for a branch or tag", field=field, remedy="see git check-ref-format"
        )
    return ref


def _is_ref(ref: str) -> bool:
    if not ref or len(ref) > MOST_REF or ref == "@" or ref.startswith("-") or ref.endswith("."):
        return False
    if ".." in ref or "@{" in ref or any(ord(char) < 32 or ord(char) == 127 or char in _NOT_IN_REF for char in ref):
        return False
    return all(part and not part.startswith(".") and not part.endswith(".lock") for part in ref.split("/"))


def is_commit(ref: str) -> bool:
    """Whether this is a full commit id (SHA-1 or SHA-256)."""
    return _COMMIT.fullmatch(ref) is not None


def branch_of(ref: str) -> str:
    """The branch to show for a ref: without refs/heads/, empty for a commit id."""
    return "" if is_commit(ref) else ref.removeprefix("refs/heads/")
