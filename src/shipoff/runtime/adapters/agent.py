"""The log agent: follows what the apps write and publishes it to `streams.logs.ingest`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from shipoff.common.errors import TemporaryError
from shipoff.common.lifecycle import background
from shipoff.common.streams import LOGS_INGEST, Streams
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.runtime.adapters.logfiles import LogFiles, RunLog, Source
from shipoff.runtime.adapters.tail import Line, Tail
from shipoff.runtime.domain import WEB, InstanceKey

_SETTLED_NS = 1_000_000_000

log = structlog.get_logger()


@dataclass(frozen=True)
class AgentOptions:
    """How it ships."""

    batch_lines: int = 500
    # So many batches go out together.
    batches: int = 4
    every_s: float = 0.1
    # While nothing is written.
    idle_every_s: float = 0.25
    idle_after_s: float = 5.0
    # Half a line that stays half is sent after this.
    partial_after_s: float = 1.0
    # The files of a run that has ended are removed when they have been quiet for this long.
    remove_after_s: float = 3.0
    unshipped_bytes: int = 64 << 20
    # More entries than this on the stream: the log service is behind, so lines wait in their files.
    stream_entries: int = 4000
    rounds: int = 8


class LogAgent:
    """Ships every run's lines: each once, in the order of its files."""

    def __init__(
        self,
        files: LogFiles,
        streams: Streams,
        *,
        is_running: Callable[[InstanceKey], bool],
        options: AgentOptions | None = None,
    ) -> None:
        self._files = files
        self._streams = streams
        self._is_running = is_running
        self._options = options or AgentOptions()
        self._tails: dict[RunLog, tuple[Source, Tail]] = {}
        self._discovered_ns = -1
        self._active_at = 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ships beside the block; on leaving, what can be sent has been sent."""
        async with background("ship logs", self._ship_forever):
            yield
        with contextlib.suppress(TemporaryError):
            await self.ship()
        for _, tail in self._tails.values():
            tail.settle()

    async def _ship_forever(self) -> None:
        while True:
            if await self.ship():
                self._active_at = time.monotonic()
            active = time.monotonic() - self._active_at < self._options.idle_after_s
            await asyncio.sleep(self._options.every_s if active else self._options.idle_every_s)

    async def ship(self) -> bool:
        """Sends what is there; whether there was anything. Raises Unavailable, Exhausted when Redis takes nothing."""
        now = time.monotonic()
        self._discover()
        behind = False
        shipped = False
        for run, (source, tail) in list(self._tails.items()):
            waiting = tail.look(now)
            if waiting:
                behind = behind or await self._stream_is_full()
            if waiting > self._options.unshipped_bytes:
                await asyncio.to_thread(tail.drop_beyond, self._options.unshipped_bytes)
            if waiting and not behind:
                shipped = await self._ship_tail(source, tail) or shipped
            elif not waiting:
                self._finish(run, source, tail, now)
        return shipped

    async def _stream_is_full(self) -> bool:
        length: int = await self._streams.client.xlen(LOGS_INGEST)
        return length > self._options.stream_entries

    def _discover(self) -> None:
        changed_ns = self._files.changed_ns()
        # File times are coarse: two files made right after each other may carry the same.
        if changed_ns == self._discovered_ns and time.time_ns() - changed_ns > _SETTLED_NS:
            return
        self._discovered_ns = changed_ns
        for run in self._files.all():
            if run not in self._tails:
                with contextlib.suppress(OSError, ValueError):
                    tail = Tail(run, most_lines=self._options.batch_lines * self._options.batches)
                    self._tails[run] = run.source(), tail

    async def _ship_tail(self, source: Source, tail: Tail) -> bool:
        """A few rounds of one run, then it is the others' turn."""
        for done in range(self._options.rounds):
            quiet = tail.idle_s(time.monotonic()) >= self._options.partial_after_s
            lines = tail.plan(flush=quiet or not self._is_running(source.key))
            if not lines:
                return done > 0
            messages = _batches(source, lines, after=tail.sequence, size=self._options.batch_lines)
            await self._streams.publish(LOGS_INGEST, messages, tenant_id=source.team_id)
            tail.done()
        return True

    def _finish(self, run: RunLog, source: Source, tail: Tail, now: float) -> None:
        """Nothing waits: the position is kept; of a run that is over, nothing is."""
        tail.settle()
        if tail.idle_s(now) >= self._options.remove_after_s and not self._is_running(source.key):
            run.remove()
            del self._tails[run]


def _batches(source: Source, lines: Sequence[Line], *, after: int, size: int) -> list[events_pb2.LogBatch]:
    """The messages for these lines, numbered from `after` + 1."""
    # Replicas of `web` are known by their number alone.
    name = str(source.index) if source.process == WEB else f"{source.process}-{source.index}"
    now = datetime.now(UTC)
    messages = []
    for start in range(0, len(lines), size):
        message = events_pb2.LogBatch(
            stream_id=f"{source.deployment_id}/app/{name}/{source.incarnation}",
            deployment_id=source.deployment_id,
            project_id=source.project_id,
            team_id=source.team_id,
            source=types_pb2.LOG_SOURCE_APP,
            instance=source.index,
        )
        for number, line in enumerate(lines[start : start + size], start=after + start + 1):
            entry = message.lines.add(sequence=number, text=line.text, channel=line.channel)
            entry.time.FromDatetime(now)
        messages.append(message)
    return messages
