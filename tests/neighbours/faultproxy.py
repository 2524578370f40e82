"""A network between a service and a server that can be made slow, silent or broken, connection by connection or for all.

It listens on a Unix socket or on TCP and passes bytes on to another such address, unchanged and in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_CHUNK_BYTES = 1 << 16
_TICK_S = 0.02


def is_path(address: str) -> bool:
    """Whether it is a Unix socket's; others are host:port."""
    return address.startswith("/")


async def _connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if is_path(address):
        return await asyncio.open_unix_connection(address)
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


@dataclass(eq=False)
class _Link:
    """One connection: the client's side and the server's."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter

    def abort(self, *, reset: bool) -> None:
        for writer in (self.client, self.server):
            inner = writer.get_extra_info("socket")
            if reset and inner is not None and inner.family != socket.AF_UNIX:
                # Closing without lingering sends RST (RFC 9293, section 3.10.4) in place of FIN.
                inner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


@dataclass
class FaultProxy:
    """A running proxy; what a test changes holds for bytes and connections from then on."""

    upstream: str
    # Each chunk is held back so long, in both directions.
    delay_s: float = 0.0
    # How much passes in a second, in each direction of each connection; 0: as much as there is.
    bytes_per_s: int = 0
    # New connections are closed at once.
    refusing: bool = False
    accepted: int = 0
    listen: str = ""
    _links: set[_Link] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _open: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    @asynccontextmanager
    async def running(cls, upstream: str, *, listen: str = "127.0.0.1:0") -> AsyncIterator[FaultProxy]:
        """Passes on from `listen` (a path, or host:port with port 0 for any) to `upstream`."""
        proxy = cls(upstream)
        proxy._open.set()
        if is_path(listen):
            server = await asyncio.start_unix_server(proxy._accept, listen)
            proxy.listen = listen
        else:
            host, _, port = listen.rpartition(":")
            server = await asyncio.start_server(proxy._accept, host, int(port))
            proxy.listen = f"{host}:{server.sockets[0].getsockname()[1]}"
        try:
            yield proxy
        finally:
            server.close()
            proxy.cut()
            for task in proxy._tasks:
                task.cancel()
            await asyncio.gather(*proxy._tasks, return_exceptions=True)

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._links)

    def cut(self) -> None:
        """Ends every connection in good order; new ones may be made."""
        for link in list(self._links):
            link.abort(reset=False)

    def reset(self) -> None:
        """Ends every connection as a host does that has forgotten it (RST on TCP)."""
        for link in list(self._links):
            link.abort(reset=True)

    def blackhole(self) -> None:
        """Nothing passes any more, and nobody is told; connections stay, new ones are accepted."""
        self._open.clear()

    def heal(self) -> None:
        """Everything passes again, what was held back first, as TCP sends again what was not acknowledged."""
        self.delay_s, self.bytes_per_s, self.refusing = 0.0, 0, False
        self._open.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            if self.refusing:
                return
            await self._serve(reader, writer)
        except OSError:
            return
        finally:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await _connect(self.upstream)
        link = _Link(writer, forth)
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, forth))
                both.create_task(self._pump(back, writer))
        except* OSError:
            pass
        finally:
            self._links.discard(link)
            forth.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(self._chunk()):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if self.bytes_per_s:
                await asyncio.sleep(len(data) / self.bytes_per_s)
            await self._open.wait()
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()

    def _chunk(self) -> int:
        return max(1, min(_CHUNK_BYTES, int(self.bytes_per_s * _TICK_S))) if self.bytes_per_s else _CHUNK_BYTES
