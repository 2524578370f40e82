"""Routes, their targets, and what a host name may be."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from shipoff.common.errors import InvalidInput

# RFC 1123, section 2.1, lower case only; no wildcard, no port, nothing that Caddy would read as a placeholder.
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")


@dataclass(frozen=True, order=True)
class Endpoint:
    """An address an instance listens on."""

    host: str
    port: int


@dataclass(frozen=True)
class StaticTarget:
    """The files of a release."""

    # A path without a file answers with index.html.
    spa: bool


@dataclass(frozen=True)
class ProxyTarget:
    """The instances of an app; none: it is not running. `paused`: it is not meant to."""

    endpoints: tuple[Endpoint, ...]
    paused: bool = False


@dataclass(frozen=True)
class Route:
    """Where the hosts of a project's environment lead."""

    project_id: str
    environment: str
    deployment_id: str
    hosts: tuple[str, ...]
    target: StaticTarget | ProxyTarget
    # Grows with every switch of this environment.
    fence: int


@dataclass(frozen=True)
class Standing:
    """What the table has for an environment: the highest fence, and the route unless it was taken off the edge."""

    fence: int
    route: Route | None


@dataclass(frozen=True)
class Release:
    """Static files to be published: an archive in the object store."""

    deployment_id: str
    object_key: str
    digest: str


def checked_hosts(hosts: list[str], *, reserved: frozenset[str]) -> tuple[str, ...]:
    """Sorted, without repetition. Raises InvalidInput for what is no host name, an address, or the platform's own."""
    for host in hosts:
        if not _HOST.fullmatch(host) or is_address(host):
            raise InvalidInput(f"{host!r} is no host name", field="hosts", remedy="lower-case letters, digits, - and . only")
        if host in reserved:
            raise InvalidInput(f"{host} is the platform's own", field="hosts", remedy="choose another name")
    return tuple(sorted(set(hosts)))


def checked_endpoint(endpoint: Endpoint) -> Endpoint:
    """The endpoint. Raises InvalidInput when its host is neither an address nor a name."""
    if not is_address(endpoint.host) and not _HOST.fullmatch(endpoint.host):
        raise InvalidInput(f"{endpoint.host!r} is no address", field="endpoints.host")
    return endpoint


def is_address(text: str) -> bool:
    """Whether it is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
