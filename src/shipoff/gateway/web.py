"""Serves the application in this event loop, on a Unix socket or on TCP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from shipoff.common.errors import PreconditionFailed
from shipoff.gateway.opening import Opening, PacedProtocol
from shipoff.gateway.settings import GatewaySettings

_HEADER_BYTES = 32 * 1024
_STREAM_MESSAGE_BYTES = 16 * 1024
_PING_S = 20.0
_MOST_CONNECTIONS = 2000
_KEEP_ALIVE_S = 75
_STARTS_WITHIN_S = 10.0
# The socket is the public API itself: the edge proxy, under another account, may connect.
_FOLDER_MODE = 0o711


class _Server(uvicorn.Server):
    """Leaves the signals to whoever runs the process: it may run other services beside this one."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: ASGIApp, settings: GatewaySettings) -> uvicorn.Config:
    host, _, port = settings.http_listen.rpartition(":")
    return uvicorn.Config(
        app,
        uds=None if settings.http_listen else str(settings.socket_path()),
        host=host.strip("[]") or "127.0.0.1",
        port=int(port or 0),
        # It is called like the class that it makes instances of.
        http=cast(type[asyncio.Protocol], partial(PacedProtocol, opening=Opening())),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        # Who asks is read in edge.address_of, which knows when X-Forwarded-For can be believed.
        proxy_headers=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=settings.drain_s,
        h11_max_incomplete_event_size=_HEADER_BYTES,
        ws_max_size=_STREAM_MESSAGE_BYTES,
        ws_ping_interval=_PING_S,
        ws_ping_timeout=_PING_S,
        ws_per_message_deflate=False,
    )


def _prepare_socket(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(_FOLDER_MODE)
    # What an earlier process left would keep its mode.
    path.unlink(missing_ok=True)


@asynccontextmanager
async def serving_http(app: ASGIApp, settings: GatewaySettings) -> AsyncIterator[None]:
    """Serves until the block is left; requests under way then get `drain_s` seconds.

    Raises PreconditionFailed when the address cannot be had.
    """
    if not settings.http_listen:
        _prepare_socket(settings.socket_path())
    server = _Server(_config(app, settings))
    task = asyncio.create_task(_serve(server), name="gateway http")
    try:
        await _until_started(server, task)
        yield
    finally:
        server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError, PreconditionFailed):
            await task
        if not settings.http_listen:
            settings.socket_path().unlink(missing_ok=True)


async def _serve(server: uvicorn.Server) -> None:
    try:
        await server.serve()
    except (OSError, SystemExit) as error:
        # uvicorn leaves the whole process when it cannot bind.
        raise PreconditionFailed(f"the public API cannot listen: {error}", remedy="is another gateway running?") from error


async def _until_started(server: uvicorn.Server, task: asyncio.Task[None]) -> None:
    async with asyncio.timeout(_STARTS_WITHIN_S):
        while not server.started:
            if task.done():
                task.result()
            await asyncio.sleep(0.01)
