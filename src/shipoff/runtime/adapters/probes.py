"""Does it answer? HTTP and TCP probes of an instance."""

from __future__ import annotations

import asyncio

from shipoff.runtime.domain import Endpoint, Probe

_TIMEOUT_S = 2.0
# The first request may load the app.
_ANSWER_S = 5.0
_BAD_STATUS = 400


async def connect(endpoint: Endpoint) -> Probe:
    """Well when a TCP connection can be made."""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            _, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    except (OSError, TimeoutError):
        return Probe(well=False, words=f"nothing answered on port {endpoint.port}")
    writer.close()
    return Probe(well=True)


async def answer(endpoint: Endpoint) -> Probe:
    """Well when a request gets an answer, whatever it says.

    A connection alone is not enough: servers that fork (gunicorn) listen before the app is loaded, and also when it cannot be.
    """
    try:
        async with asyncio.timeout(_ANSWER_S):
            answered = await _first_bytes(endpoint)
    except TimeoutError:
        return Probe(well=False, words=f"port {endpoint.port} is open, but a request was not answered within {_ANSWER_S:g} s")
    except OSError:
        return Probe(well=False, words=f"nothing answered on port {endpoint.port}")
    if not answered:
        return Probe(well=False, words=f"port {endpoint.port} is open, but closed the connection without an answer")
    return Probe(well=True)


async def get(endpoint: Endpoint, path: str) -> Probe:
    """Well when GET `path` answers with a status below 400 (RFC 9110, section 15)."""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            status = await _status(endpoint, path)
    except TimeoutError:
        return Probe(well=False, words=f"GET {path} on port {endpoint.port} took longer than {_TIMEOUT_S:g} s")
    except OSError:
        return Probe(well=False, words=f"nothing answered on port {endpoint.port}")
    if not status:
        return Probe(well=False, words=f"GET {path} on port {endpoint.port} was not answered in HTTP")
    return Probe(well=status < _BAD_STATUS, words=f"GET {path} on port {endpoint.port} answered {status}")


def _request(endpoint: Endpoint, line: str) -> bytes:
    headers = f"Host: localhost:{endpoint.port}\r\nUser-Agent: shipoff-probe\r\nConnection: close"
    return f"{line} HTTP/1.1\r\n{headers}\r\n\r\n".encode()


async def _first_bytes(endpoint: Endpoint) -> bytes:
    reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    try:
        writer.write(_request(endpoint, "HEAD /"))
        await writer.drain()
        return await reader.read(1)
    finally:
        writer.close()


async def _status(endpoint: Endpoint, path: str) -> int:
    """The status of the answer; 0 when it is no HTTP."""
    reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    try:
        writer.write(_request(endpoint, f"GET {path}"))
        await writer.drain()
        parts = (await reader.readline()).split()
    except ValueError:
        return 0
    finally:
        writer.close()
    answered = len(parts) > 1 and parts[0].startswith(b"HTTP/") and parts[1].isdigit()
    return int(parts[1]) if answered else 0
