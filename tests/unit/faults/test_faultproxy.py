"""The fault proxy breaks what it is told to break, and nothing else."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from neighbours.faultproxy import FaultProxy

SOON_S = 5


@asynccontextmanager
async def an_echo(path: str) -> AsyncIterator[None]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(echo, path)
    try:
        yield
    finally:
        server.close()


@pytest.fixture
async def proxy(shipoff_home: Path) -> AsyncIterator[FaultProxy]:
    path = str(shipoff_home / "echo.sock")
    async with an_echo(path), FaultProxy.running(path) as running:
        yield running


async def connected(proxy: FaultProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = proxy.listen.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def echoed(proxy: FaultProxy, data: bytes = b"hello") -> bytes:
    reader, writer = await connected(proxy)
    writer.write(data)
    answer = await asyncio.wait_for(reader.readexactly(len(data)), SOON_S)
    writer.close()
    return answer


async def test_bytes_pass_unchanged_and_an_end_is_passed_on(proxy):
    data = os.urandom(1 << 20)
    assert await echoed(proxy, data) == data
    reader, writer = await connected(proxy)
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), SOON_S) == b""


async def test_it_listens_on_a_unix_socket_too(proxy, shipoff_home):
    listen = str(shipoff_home / "proxy.sock")
    async with FaultProxy.running(proxy.upstream, listen=listen):
        reader, writer = await asyncio.open_unix_connection(listen)
        writer.write(b"x")
        assert await asyncio.wait_for(reader.readexactly(1), SOON_S) == b"x"
        writer.close()


async def test_a_cut_ends_what_is_connected_and_lets_others_in(proxy):
    reader, writer = await connected(proxy)
    writer.write(b"x")
    await reader.readexactly(1)
    proxy.cut()
    assert await asyncio.wait_for(reader.read(), SOON_S) == b""
    assert await echoed(proxy) == b"hello"


async def test_a_reset_is_an_error_and_no_end(proxy):
    reader, writer = await connected(proxy)
    writer.write(b"x")
    await reader.readexactly(1)
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), SOON_S)


async def test_a_black_hole_says_nothing_until_it_is_healed(proxy):
    reader, writer = await connected(proxy)
    proxy.blackhole()
    writer.write(b"held back")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readexactly(9), 0.2)
    proxy.heal()
    assert await asyncio.wait_for(reader.readexactly(9), SOON_S) == b"held back"


async def test_a_refusal_closes_new_connections_only(proxy):
    reader, writer = await connected(proxy)
    writer.write(b"x")
    await reader.readexactly(1)
    proxy.refusing = True
    refused, _ = await connected(proxy)
    with suppress(ConnectionResetError):
        assert await asyncio.wait_for(refused.read(), SOON_S) == b""
    writer.write(b"y")
    assert await asyncio.wait_for(reader.readexactly(1), SOON_S) == b"y"


@pytest.mark.parametrize("slow", [{"delay_s": 0.1}, {"bytes_per_s": 500}])
async def test_what_is_slow_takes_its_time(proxy, slow: dict[str, float]):
    """100 bytes, there and back: at least 0.2 s at 0.1 s a chunk, and at least 0.2 s at 500 a second."""
    for name, value in slow.items():
        setattr(proxy, name, value)
    started = asyncio.get_running_loop().time()
    assert await echoed(proxy, b"x" * 100) == b"x" * 100
    assert asyncio.get_running_loop().time() - started >= 0.2
