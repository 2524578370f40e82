"""Keeps servers running: one that dies is started again, later each time it dies soon."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

import structlog

from shipoff.common.errors import ShipoffError
from shipoff.common.lifecycle import background
from shipoff.embedded.process import Child

log = structlog.get_logger()


class Server(Protocol):
    """Something that runs as a child process."""

    name: str

    @property
    def child(self) -> Child | None:
        """The running process."""

    async def start(self) -> None:
        """Starts it and waits until it is ready."""

    async def stop(self) -> None:
        """Ends it and waits."""


@asynccontextmanager
async def supervised(servers: Sequence[Server]) -> AsyncIterator[None]:
    """Watches servers that run, beside the block."""
    async with AsyncExitStack() as stack:
        for server in servers:
            await stack.enter_async_context(background(f"server {server.name}", _Keeper(server).keep))
        yield


class _Keeper:
    def __init__(self, server: Server) -> None:
        self._server = server

    async def keep(self) -> None:
        """Never returns; raises when a start fails, the supervised loop then comes back."""
        while True:
            if self._server.child is not None:
                code = await self._server.child.wait()
                log.warning("server died", server=self._server.name, exit_code=code)
            try:
                await self._server.start()
            except ShipoffError:
                # It may run and not answer.
                await self._server.stop()
                raise
            log.info("server started again", server=self._server.name)
