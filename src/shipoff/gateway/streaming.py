"""One WebSocket: the log lines and the states of a deployment, merged, within bounds, until it rests or the client leaves.

Whoever is slow slows down its own reading of the services; the log service counts what it leaves out then. Nothing of a
stream outlives it: leaving cancels both calls.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from starlette.websockets import WebSocket, WebSocketDisconnect

from shipoff.common.errors import NotFound, PermissionDenied, ShipoffError, TemporaryError, Unauthenticated
from shipoff.contracts.log.v1 import log_pb2
from shipoff.contracts.orchestrator.v1 import orchestrator_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.gateway.context import Gateway
from shipoff.gateway.models.running import log_entry_out

_WAITING_MESSAGES = 8
_MESSAGE_BYTES = 256 * 1024
_SEND_S = 30.0
_RETRY_S = 0.3
# How often a deployment that serves is looked at: its next transition may be days away.
_LIVE_LOOK_S = 2.0
# Lines travel beside the states and may arrive a little later: the end waits until there are none for this long.
_QUIET_S, _QUIET_LOOKS = 0.15, 2
_LONGEST_DRAIN_S = 10.0
_PAGE = 1000
# RFC 6455, section 7.4.1.
_NORMAL, _POLICY_VIOLATION = 1000, 1008

_Response = TypeVar("_Response")
_ENDED = (types_pb2.DEPLOYMENT_STATE_FAILED, types_pb2.DEPLOYMENT_STATE_INACTIVE)


@dataclass(frozen=True)
class Follow:
    """What of a deployment is wanted; `until_rest`: the end comes when it serves, too."""

    sources: Sequence[types_pb2.LogSource.ValueType]
    after: int
    until_rest: bool


class _Left(Exception):
    """The client is gone, or reads nothing."""


class _Done(Exception):
    """Everything was sent."""


class Stream:
    """Serves one accepted WebSocket."""

    def __init__(
        self,
        gateway: Gateway,
        websocket: WebSocket,
        deployment: orchestrator_pb2.Deployment,
        follow: Follow,
        still_allowed: Callable[[], Awaitable[None]],
    ) -> None:
        self._gateway = gateway
        self._websocket = websocket
        self._deployment = deployment
        self._follow = follow
        self._still_allowed = still_allowed
        self._position = follow.after
        self._messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(_WAITING_MESSAGES)

    async def run(self) -> None:
        """Returns when everything was sent, the client left, or it is not allowed any more."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._notice_leaving())
                group.create_task(self._recheck())
                sending = group.create_task(self._send())
                lines = group.create_task(self._lines())
                await self._states()
                lines.cancel()
                await self._drain()
                await self._messages.put({"type": "end"})
                await self._messages.put(None)
                await sending
                raise _Done
        except* _Done:
            await self._close(_NORMAL, "")
        except* _Left:
            pass
        except* (Unauthenticated, PermissionDenied, NotFound):
            await self._close(_POLICY_VIOLATION, "not allowed any more")

    async def _close(self, code: int, reason: str) -> None:
        # The client may have gone in the meantime.
        with suppress(WebSocketDisconnect, RuntimeError):
            await self._websocket.close(code, reason)

    async def _notice_leaving(self) -> None:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise _Left

    async def _recheck(self) -> None:
        """Raises when the token was revoked or the role taken since."""
        while True:
            await asyncio.sleep(self._gateway.settings.stream_recheck_s)
            try:
                await self._still_allowed()
            except (Unauthenticated, PermissionDenied, NotFound):
                raise
            except ShipoffError:
                # Nobody can tell just now: ask again later.
                continue

    async def _send(self) -> None:
        while (message := await self._messages.get()) is not None:
            text = json.dumps(message, separators=(",", ":"), ensure_ascii=False)
            try:
                async with asyncio.timeout(_SEND_S):
                    await self._websocket.send_text(text)
            except (TimeoutError, WebSocketDisconnect, OSError) as error:
                raise _Left from error

    async def _lines(self) -> None:
        while True:
            request = log_pb2.FollowLogsRequest(
                deployment_id=self._deployment.id, sources=self._follow.sources, after=self._position
            )
            try:
                async with _reading(self._gateway.clients.log.FollowLogs(request, timeout=None)) as responses:
                    async for response in responses:
                        if response.gap:
                            await self._messages.put({"type": "gap", "count": response.gap})
                        await self._put_lines(response.entries)
            except TemporaryError:
                # The log service restarts: go on after the last line that was sent.
                pass
            await asyncio.sleep(_RETRY_S)

    async def _put_lines(self, entries: Iterable[log_pb2.Entry]) -> None:
        for batch in _batches(entries):
            shown = [log_entry_out(entry).model_dump(mode="json") for entry in batch]
            await self._messages.put({"type": "lines", "entries": shown})
            self._position = max(self._position, batch[-1].position)

    def _rests(self) -> bool:
        if self._deployment.state in _ENDED:
            return True
        return self._follow.until_rest and self._deployment.state == types_pb2.DEPLOYMENT_STATE_PRODUCTION

    async def _states(self) -> None:
        """Sends the state as it is, then each transition; returns when the deployment rests."""
        await self._put_state()
        while not self._rests():
            serving = self._deployment.state == types_pb2.DEPLOYMENT_STATE_PRODUCTION
            try:
                await (self._look() if serving else self._watch())
            except TemporaryError:
                pass
            except NotFound:
                # Either orchestrator has not taken it up yet, or its project was deleted meanwhile.
                if self._deployment.number:
                    return
            if not self._rests():
                await asyncio.sleep(_LIVE_LOOK_S if serving else _RETRY_S)

    async def _look(self) -> None:
        request = orchestrator_pb2.GetDeploymentRequest(deployment_id=self._deployment.id)
        answer = await self._gateway.clients.orchestrator.GetDeployment(request)
        await self._note(answer.deployment)

    async def _watch(self) -> None:
        request = orchestrator_pb2.WatchDeploymentRequest(deployment_id=self._deployment.id)
        async with _reading(self._gateway.clients.orchestrator.WatchDeployment(request, timeout=None)) as responses:
            async for response in responses:
                await self._note(response.deployment)

    async def _note(self, deployment: orchestrator_pb2.Deployment) -> None:
        before, self._deployment = self._deployment, deployment
        if (before.number, before.version, before.state) != (deployment.number, deployment.version, deployment.state):
            await self._put_state()

    async def _put_state(self) -> None:
        shown = await self._gateway.people.shown(self._deployment)
        await self._messages.put({"type": "state", "deployment": shown.model_dump(mode="json", by_alias=True)})

    async def _drain(self) -> None:
        """Sends what was logged until the deployment came to rest."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + _LONGEST_DRAIN_S
        serving = self._deployment.state == types_pb2.DEPLOYMENT_STATE_PRODUCTION
        quiet_looks = 0
        while quiet_looks < _QUIET_LOOKS and loop.time() < deadline_s:
            page = await self._read_page()
            await self._put_lines(page.entries)
            # An app that serves goes on talking: only the lines that led here are waited for.
            late = any(not serving or entry.source != types_pb2.LOG_SOURCE_APP for entry in page.entries)
            quiet_looks = 0 if late or page.more else quiet_looks + 1
            if not page.more:
                await asyncio.sleep(_QUIET_S)

    async def _read_page(self) -> log_pb2.ReadLogsResponse:
        request = log_pb2.ReadLogsRequest(
            deployment_id=self._deployment.id, sources=self._follow.sources, after=self._position, limit=_PAGE
        )
        try:
            return await self._gateway.clients.log.ReadLogs(request)
        except TemporaryError:
            return log_pb2.ReadLogsResponse()


def _batches(entries: Iterable[log_pb2.Entry]) -> Iterable[list[log_pb2.Entry]]:
    """In pieces that make messages of bounded size."""
    batch: list[log_pb2.Entry] = []
    size_bytes = 0
    for entry in entries:
        batch.append(entry)
        size_bytes += len(entry.line.text) + 200
        if size_bytes >= _MESSAGE_BYTES:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch


def _reading(call: AsyncIterable[_Response]) -> aclosing[AsyncGenerator[_Response, None]]:
    """Cancels the call when the block is left, also in the middle of a response."""
    return aclosing(cast(AsyncGenerator[_Response, None], call))
