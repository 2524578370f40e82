"""The outermost layer, around every request and WebSocket: its id, its framing, its headers, and the error nobody caught."""

from __future__ import annotations

import ipaddress
import re
import secrets
import time
from collections.abc import Sequence
from http import HTTPStatus

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shipoff.common.errors import Internal, InvalidInput
from shipoff.common.telemetry import Context, working_on
from shipoff.gateway.problems import response_of

log = structlog.get_logger()

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_IPV6_NETWORK_BITS = 64
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Edge:
    """ASGI middleware. `trusted`: the networks of proxies whose X-Forwarded-For says who asks."""

    def __init__(self, app: ASGIApp, *, trusted: Sequence[Network] = ()) -> None:
        self._app = app
        self._trusted = tuple(trusted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        _see_through(scope, headers, self._trusted)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        with working_on(Context(request_id=request_id, traceparent=headers.get("traceparent", ""))):
            await self._answer(scope, receive, _Answer(send, request_id))

    async def _answer(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        started_s = time.monotonic()
        try:
            _check_framing(scope)
            _check_url(scope)
            await self._app(scope, receive, answer)
        except InvalidInput as error:
            await answer.respond(error, scope, receive)
        except Exception as error:
            # What is raised here is a defect of ours: the caller gets a problem document, the log the whole story.
            log.exception("request crashed", path=scope["path"], error=str(error))
            await answer.respond(Internal(str(error)), scope, receive)
        finally:
            _log(scope, answer.status, time.monotonic() - started_s)


class _Answer:
    """A `send` that adds the headers of every answer and remembers its status."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start", "websocket.accept"):
            self.status = message.get("status", HTTPStatus.SWITCHING_PROTOCOLS)
            headers = MutableHeaders(scope=message) if "headers" in message else MutableHeaders(raw=[])
            headers["X-Request-Id"] = self._request_id
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            message = {**message, "headers": headers.raw}
        await self._send(message)

    async def respond(self, error: Internal | InvalidInput, scope: Scope, receive: Receive) -> None:
        if self.status:
            return
        await response_of(error)(scope, receive, self)


def _check_framing(scope: Scope) -> None:
    """Raises InvalidInput for what two servers could read as two different requests (RFC 9112, section 11.2)."""
    names = [name for name, _ in scope["headers"]]
    if names.count(b"host") > 1:
        raise InvalidInput("more than one Host header")
    if b"content-length" in names and b"transfer-encoding" in names:
        raise InvalidInput("both Content-Length and Transfer-Encoding")
    if names.count(b"content-length") > 1:
        raise InvalidInput("more than one Content-Length header")


def _check_url(scope: Scope) -> None:
    """Raises InvalidInput for U+0000, which no name, id or cursor holds."""
    if "\0" in scope["path"] or b"%00" in scope["query_string"]:
        raise InvalidInput("the character U+0000 is not allowed")


def _log(scope: Scope, status: int, took_s: float) -> None:
    quiet = scope.get("method") in ("GET", "HEAD") and status < HTTPStatus.BAD_REQUEST
    route = scope.get("route")
    write = log.debug if quiet else log.info
    write(
        "request answered",
        method=scope.get("method", "WEBSOCKET"),
        route=getattr(route, "path", "") or "unknown",
        status=int(status),
        took_ms=round(took_s * 1000),
    )


def _see_through(scope: Scope, headers: Headers, trusted: Sequence[Network]) -> None:
    """Makes who a trusted proxy speaks for the client: the last address of X-Forwarded-For is the proxy's own word."""
    if not trusted or not scope.get("client"):
        return
    try:
        proxy = ipaddress.ip_address(scope["client"][0])
        client = ipaddress.ip_address(headers.get("x-forwarded-for", "").rpartition(",")[2].strip())
    except ValueError:
        return
    if any(proxy in network for network in trusted):
        scope["client"] = (str(client), 0)


def address_of(connection: HTTPConnection) -> str:
    """The network a request came from: an IPv4 address, the /64 of an IPv6 one.

    Over the Unix socket the only peer is the edge proxy, which sets X-Forwarded-For itself; over TCP the header is
    anybody's, and is looked at only where it comes from a trusted proxy (`_see_through`).
    """
    peer = connection.client.host if connection.client else ""
    if not peer:
        peer = connection.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return "local"
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, _IPV6_NETWORK_BITS), strict=False))
    return str(address)
