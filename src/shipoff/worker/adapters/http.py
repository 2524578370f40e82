"""Sends deliveries over HTTP, only to addresses that the public reaches, and to the very address that was checked."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit, urlunsplit

import httpx2

from shipoff.common.errors import InvalidInput
from shipoff.worker.domain import Outcome

_TIMEOUT_S = 10.0
_PORTS = {"http": 80, "https": 443}
# Ways to write an IPv4 address as an IPv6 one: NAT64 (RFC 6052, RFC 8215), 6to4 (RFC 3056), Teredo (RFC 4380).
_TRANSLATING = tuple(ipaddress.ip_network(net) for net in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96"))

Resolve = Callable[[str, int], Awaitable[list[str]]]


@dataclass(frozen=True)
class Target:
    """A hook's address after the check: `url` leads to a numeric address, `host` is what the certificate must name."""

    url: str
    host: str
    netloc: str


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet: not loopback, link-local, private, metadata, multicast, …."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif any(ip in network for network in _TRANSLATING):
            return False
    return ip.is_global and not ip.is_multicast


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name; numeric forms of every kind (hexadecimal, short) included. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class HttpSender:
    """Implements Sender. `allowed` holds hosts (name or name:port) that may be private."""

    def __init__(self, client: httpx2.AsyncClient, *, allowed: frozenset[str], resolve: Resolve = resolve) -> None:
        self._client = client
        self._allowed = allowed
        self._resolve = resolve

    @classmethod
    @asynccontextmanager
    async def open(cls, *, allowed: frozenset[str]) -> AsyncIterator[HttpSender]:
        """A sender without proxies, redirects and kept connections.

        A kept connection would be one to an address, whose certificate was checked for another host's name.
        """
        limits = httpx2.Limits(max_keepalive_connections=0)
        async with httpx2.AsyncClient(timeout=_TIMEOUT_S, limits=limits, trust_env=False, follow_redirects=False) as client:
            yield cls(client, allowed=allowed)

    async def check(self, url: str) -> None:
        """Raises InvalidInput when nothing may be sent there."""
        async with asyncio.timeout(_TIMEOUT_S):
            await self._target(url)

    async def send(self, url: str, body: bytes, headers: dict[str, str]) -> Outcome:
        """Sends once, within ten seconds; the answer's body is not read."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                target = await self._target(url)
                return await self._post(target, body, headers)
        except InvalidInput as error:
            return Outcome(error=error.message)
        except (TimeoutError, httpx2.TimeoutException):
            return Outcome(error="timed out")
        except httpx2.ConnectError as error:
            return Outcome(error=f"cannot connect: {error}"[:200])
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            return Outcome(error=f"{type(error).__name__}: {error}"[:200])

    async def _post(self, target: Target, body: bytes, headers: dict[str, str]) -> Outcome:
        async with self._client.stream(
            "POST",
            target.url,
            content=body,
            headers={**headers, "Host": target.netloc, "User-Agent": "shipoff-hooks"},
            extensions={"sni_hostname": target.host},
        ) as response:
            if response.is_redirect:
                return Outcome(error=f"{response.status_code}: redirects are not followed")
            return Outcome(status=response.status_code)

    async def _target(self, url: str) -> Target:
        parts, port = _parse(url)
        host = (parts.hostname or "").lower().rstrip(".")
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise InvalidInput(f"{host} has no address", field="url", remedy="is the name right?") from error
        if not self._allowed & {host, f"{host}:{port}"} and not all(is_public(address) for address in addresses):
            raise InvalidInput(
                f"{host} is not on the public internet",
                field="url",
                remedy="the operator can allow it: SHIPOFF_WORKER_ALLOW_HOSTS",
            )
        if not addresses:
            raise InvalidInput(f"{host} has no address", field="url")
        numeric = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
        return Target(urlunsplit(parts._replace(netloc=f"{numeric}:{port}", fragment="")), host, parts.netloc)


def _parse(url: str) -> tuple[SplitResult, int]:
    """The URL's parts and its port. Raises InvalidInput for everything but a plain http or https URL."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidInput("this is no URL", field="url") from error
    if parts.scheme not in _PORTS or not parts.hostname:
        raise InvalidInput("a hook is an http or https URL", field="url")
    if parts.username is not None or parts.password is not None:
        raise InvalidInput(
            "a hook's URL has no user name and password in it", field="url", remedy="deliveries are signed instead"
        )
    if not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidInput("the URL has characters that must be encoded", field="url")
    return parts, port if port is not None else _PORTS[parts.scheme]
