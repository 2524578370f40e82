"""Reading request bodies within bounds: small JSON documents, raw deliveries, and archives that only pass through."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from http import HTTPStatus

from starlette.requests import Request
from starlette.types import Message

from shipoff.common.errors import InvalidInput
from shipoff.gateway.problems import Refused

DEEPEST_JSON = 64
CHUNK_BYTES = 256 * 1024
# Strings as a whole, so that brackets inside them do not count; possessive, so that no input makes it try again.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)

# The escape of U+0000, not an escaped backslash before "u0000".
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*+\\u0000")

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def too_large(limit_bytes: int) -> Refused:
    """413, with the cap."""
    return Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {limit_bytes} bytes", field="body")


def media_type(request: Request) -> str:
    """The Content-Type without its parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def declared_bytes(request: Request, limit_bytes: int) -> int | None:
    """The Content-Length, None without one. Raises Refused (413) when it is above the cap, before anything is read."""
    text = request.headers.get("content-length")
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise InvalidInput("Content-Length is not a number", field="Content-Length")
    if int(text) > limit_bytes:
        raise too_large(limit_bytes)
    return int(text)


async def pieces(request: Request, *, limit_bytes: int, timeout_s: float) -> AsyncIterator[bytes]:
    """The body as it comes, never more than a piece at a time.

    Raises Refused: 413 above the cap, 408 when the next piece does not come in time. Raises ClientDisconnect when the
    caller leaves before the end.
    """
    declared_bytes(request, limit_bytes)
    seen_bytes = 0
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(timeout_s):
                piece = await anext(stream, None)
        except TimeoutError as error:
            raise Refused(HTTPStatus.REQUEST_TIMEOUT, "the body did not arrive in time", field="body") from error
        if piece is None:
            return
        seen_bytes += len(piece)
        if seen_bytes > limit_bytes:
            raise too_large(limit_bytes)
        for start in range(0, len(piece), CHUNK_BYTES):
            yield piece[start : start + CHUNK_BYTES]


async def whole(request: Request, *, limit_bytes: int, timeout_s: float) -> bytes:
    """The whole body, at most `limit_bytes`. Raises Refused: 413, 408."""
    try:
        async with asyncio.timeout(timeout_s):
            return b"".join([piece async for piece in pieces(request, limit_bytes=limit_bytes, timeout_s=timeout_s)])
    except TimeoutError as error:
        raise Refused(HTTPStatus.REQUEST_TIMEOUT, "the body did not arrive in time", field="body") from error


def check_depth(body: bytes) -> None:
    """Raises InvalidInput for JSON that nests deeper than any of ours, before a parser sees it."""
    if body.count(b"[") + body.count(b"{") <= DEEPEST_JSON:
        return
    depth = 0
    for token in _TOKEN.finditer(body):
        if token[0] in (b"[", b"{"):
            depth += 1
        elif token[0] in (b"]", b"}"):
            depth -= 1
        if depth > DEEPEST_JSON:
            raise InvalidInput(f"the JSON nests deeper than {DEEPEST_JSON} levels", field="body")


def check_text(body: bytes) -> None:
    """Raises InvalidInput for what is no text anywhere else: U+0000 and half a surrogate pair (RFC 8259, section 8.2)."""
    if _NUL.search(body):
        raise InvalidInput("the character U+0000 is not allowed", field="body")
    if not _SURROGATE.search(body):
        return
    # What is no JSON at all is the parser's to tell.
    with contextlib.suppress(json.JSONDecodeError, UnicodeDecodeError):
        value = json.loads(body)
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise InvalidInput("half a surrogate pair is no character", field="body") from error


def with_body(request: Request, body: bytes) -> Request:
    """The same request, to be read once more."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(request.scope, receive)


async def with_json(request: Request, *, limit_bytes: int, timeout_s: float) -> Request:
    """The same request with its body read and checked: JSON of bounded size and depth, or nothing.

    Raises Refused (408, 413, 415), InvalidInput.
    """
    body = await whole(request, limit_bytes=limit_bytes, timeout_s=timeout_s)
    if body and media_type(request) != "application/json":
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body has to be application/json", field="Content-Type")
    check_depth(body)
    check_text(body)
    return with_body(request, body)
