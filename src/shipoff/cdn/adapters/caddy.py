"""The edge is Caddy, told over its admin socket (https://caddyserver.com/docs/api), and by files it reads as it serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2

from shipoff.cdn.adapters import live
from shipoff.cdn.domain import Route
from shipoff.cdn.resources import MARKER_KEY, SERVER, EdgeLayout, LiveFile, edge_config, live_files
from shipoff.common.errors import PreconditionFailed, Unavailable

_TIMEOUT_S = 8.0


class CaddyEdge:
    """ports.Edge over a Unix socket."""

    def __init__(self, client: httpx2.AsyncClient, layout: EdgeLayout) -> None:
        self._client = client
        self._layout = layout
        self._applied = ""

    @classmethod
    @asynccontextmanager
    async def open(cls, layout: EdgeLayout) -> AsyncIterator[CaddyEdge]:
        """Connects on use: Caddy may start later, and again."""
        # Each new configuration closes the admin's connections, so none is kept. The host is one that Caddy's check of
        # the Host header lets pass on a Unix socket.
        transport = httpx2.AsyncHTTPTransport(uds=layout.admin_socket, limits=httpx2.Limits(max_keepalive_connections=0))
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=_TIMEOUT_S) as client:
            yield cls(client, layout)

    async def apply(self, routes: Sequence[Route]) -> None:
        wanted = edge_config(self._layout, routes)
        files = live_files(self._layout, routes)
        # First what the configuration leads to, last what nothing leads to any more.
        await self._files(live.write, files)
        if not await self._runs(wanted.marker):
            answer = await self._call("POST", "/load", wanted.config)
            if answer.is_error:
                raise PreconditionFailed(f"Caddy refuses the routes: {answer.text.strip()}")
        self._applied = wanted.marker
        await self._files(live.prune, files)

    async def intact(self) -> bool:
        return not self._applied or await self._runs(self._applied)

    async def _files(self, change: Callable[[Path, Sequence[LiveFile]], None], files: Sequence[LiveFile]) -> None:
        try:
            await asyncio.to_thread(change, Path(self._layout.live), files)
        except OSError as error:
            raise Unavailable(
                f"the edge's files cannot be changed: {error}", retry_after_s=5.0, remedy="is the disk full?"
            ) from error

    async def _runs(self, marker: str) -> bool:
        """Whether the running configuration carries this marker, which is the hash of all the rest."""
        answer = await self._call("GET", f"/config/apps/http/servers/{SERVER}/{MARKER_KEY}")
        # A Caddy without our server answers with an error.
        return answer.is_success and answer.json() == marker

    async def _call(self, method: str, path: str, body: object = None) -> httpx2.Response:
        try:
            return await self._client.request(method, path, json=body)
        except httpx2.HTTPError as error:
            raise Unavailable(f"the edge does not answer: {error}", remedy="is Caddy running?") from error
