"""Follows what pods write, through the API server, and publishes it to `streams.logs.ingest`.

A bounded number of pods is followed at a time; where there are more, they take turns. Positions are kept in the runtime's
database a second late: what a crash forgets is sent again under the same numbers, and the log service keeps each line once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

import structlog

from shipoff.common.errors import PermanentError, TemporaryError
from shipoff.common.lifecycle import background, looping
from shipoff.common.streams import LOGS_INGEST, Streams
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.runtime.adapters.kubernetes.api import Api
from shipoff.runtime.adapters.kubernetes.lines import TimedLine, timed_lines
from shipoff.runtime.adapters.kubernetes.position import Position, Resumption

_LOOK_S = 0.25
_SAVE_S = 1.0
_RETRY_S = 1.0
# A pod that has been silent for so long makes way for one that waits for its turn, and any one after its longest turn.
_SILENCE_S = 0.5
_LONGEST_TURN_S = 10.0
# The log of a container that ends does so before its pod's state tells of it.
_NEWS_S = 5.0
# More entries than this on the stream: the log service is behind, so lines wait in the cluster.
_STREAM_ENTRIES = 4000
_BATCH_LINES = 500
_APP, _PLATFORM = "stdout", ""
_ROTATED = "[lines may be missing here: the cluster had rotated this container's log]"
_RUNS_MISSED = "[what the container wrote in runs before this one is gone]"

log = structlog.get_logger()


@dataclass(frozen=True)
class Writer:
    """A pod at one moment, and whose output it is."""

    uid: str
    namespace: str
    pod: str
    # Runs of its container that ended before this one; whether this one has begun, and ended.
    run: int
    began_ns: int
    started: bool
    ended: bool
    # Empty: nobody knows.
    deployment_id: str
    project_id: str
    team_id: str
    process: str
    index: int


@dataclass
class _Patience:
    """How reading ended: with the log, or because the turn was over."""

    over: bool = False


class Positions(Protocol):
    """Where one has come to, by the pods' uids; durable."""

    async def load(self) -> Mapping[str, Position]:
        """All that are kept."""
        ...

    async def save(self, positions: Mapping[str, Position], *, gone: Collection[str]) -> None:
        """Keeps these, and forgets those of pods that are gone."""
        ...


class PodLogs:
    """Ships the lines of every pod that `writers` names: each once, in the order in which they were written."""

    def __init__(
        self, api: Api, streams: Streams, positions: Positions, *, writers: Callable[[], Sequence[Writer]], followers: int
    ) -> None:
        self._api = api
        self._streams = streams
        self._kept = positions
        self._list = writers
        self._slots = asyncio.Semaphore(followers)
        self._waiting = 0
        self._writers: dict[str, Writer] = {}
        self._there: set[str] | None = None
        self._positions: dict[str, Position] = {}
        self._unsaved: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._looked = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ships beside the block; on leaving, positions are kept."""
        self._positions = dict(await self._kept.load())
        try:
            async with (
                looping("find pods that write", self._look, every_s=_LOOK_S),
                background("keep positions of logs", self._save_forever),
            ):
                yield
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            with contextlib.suppress(TemporaryError):
                await self._save()

    async def _look(self) -> None:
        found = {one.uid: one for one in self._list()}
        self._there = set(found)
        # What ends has lost its workload before it has said its last.
        kept = {uid: _still(one, self._writers.get(uid)) for uid, one in found.items()}
        self._writers = {uid: one for uid, one in kept.items() if one.deployment_id}
        for uid, one in self._writers.items():
            if one.started and uid not in self._tasks:
                task = asyncio.create_task(self._ship(uid), name=f"log of {one.pod}")
                self._tasks[uid] = task
                task.add_done_callback(partial(self._over, uid))
        self._looked.set()
        self._looked.clear()

    def _over(self, uid: str, task: asyncio.Task[None]) -> None:
        """The next look begins it anew where it is still wanted."""
        del self._tasks[uid]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("following a pod's log failed", pod_uid=uid, exc_info=error)

    async def _save_forever(self) -> None:
        while True:
            await asyncio.sleep(_SAVE_S)
            await self._save()

    async def _save(self) -> None:
        there = set(self._positions) if self._there is None else self._there
        gone = [uid for uid in self._positions if uid not in there and uid not in self._tasks]
        changed = {uid: self._positions[uid] for uid in self._unsaved if uid in self._positions}
        if not changed and not gone:
            return
        await self._kept.save(changed, gone=gone)
        self._unsaved -= {uid for uid, position in changed.items() if self._positions[uid] == position}
        for uid in gone:
            del self._positions[uid]
            self._unsaved.discard(uid)

    async def _ship(self, uid: str) -> None:
        """One pod, until it is gone."""
        while (writer := self._writers.get(uid)) is not None:
            try:
                await self._step(writer)
            except (TemporaryError, PermanentError) as error:
                log.info("the log of a pod cannot be read", pod=writer.pod, error=error.message)
                await asyncio.sleep(_RETRY_S)
            await self._looked.wait()

    async def _step(self, writer: Writer) -> None:
        """Reads on: first what is left of the runs before, then the one that runs."""
        position = self._positions.get(writer.uid, Position())
        if position.run < writer.run:
            await self._finish(writer, position)
            now = self._positions.get(writer.uid, position)
            self._move(writer.uid, now.at_run(writer.run, began_ns=writer.began_ns))
        elif writer.started and not position.complete:
            over = await self._read(writer, position, previous=False)
            if over and writer.ended:
                # Ended before it was asked for: then what came was all.
                self._move(writer.uid, replace(self._positions[writer.uid], complete=True))
            elif over:
                await self._news_of(writer)

    async def _news_of(self, writer: Writer) -> None:
        """Waits for what its end comes to: asked again, the next run would answer for this one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_NEWS_S):
                while self._writers.get(writer.uid) == writer:
                    await self._looked.wait()

    async def _finish(self, writer: Writer, position: Position) -> None:
        """What is left of the run before; what lies further back is gone."""
        if position.run < writer.run - 1:
            if not position.complete or position.run < writer.run - 2:
                await self._tell(writer, position, _RUNS_MISSED)
            position = self._positions.get(writer.uid, position).at_run(writer.run - 1)
        if not position.complete:
            await self._read(writer, position, previous=True)

    async def _read(self, writer: Writer, position: Position, *, previous: bool) -> bool:
        """Reads on from there; whether it has come to the end."""
        resumption, follow = Resumption(position), not (previous or writer.ended)
        self._positions[writer.uid] = position
        async with (
            self._turn(),
            contextlib.aclosing(
                self._api.log(writer.pod, writer.namespace, since=position.since, previous=previous, follow=follow)
            ) as chunks,
            contextlib.aclosing(timed_lines(chunks)) as arriving,
        ):
            patience = _Patience()
            async for lines in self._patiently(writer.uid, arriving, patience):
                if not await self._take(writer, lines, resumption):
                    return False
            return patience.over

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()

    async def _patiently(
        self, uid: str, arriving: AsyncIterator[list[TimedLine]], patience: _Patience
    ) -> AsyncIterator[list[TimedLine]]:
        """What arrives, until it ends, somebody else's turn has come, or the pod has gone without a word."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            coming = asyncio.ensure_future(anext(arriving, None))
            try:
                while not (await asyncio.wait({coming}, timeout=_SILENCE_S))[0]:
                    if self._waiting or uid not in self._writers:
                        return
                lines = coming.result()
            finally:
                if not coming.done():
                    coming.cancel()
                    await asyncio.gather(coming, return_exceptions=True)
            if lines is None:
                patience.over = True
                return
            yield lines
            if self._waiting and loop.time() - began > _LONGEST_TURN_S:
                return

    async def _take(self, writer: Writer, lines: Sequence[TimedLine], resumption: Resumption) -> bool:
        """Sends what is new of these; False where they are another run's than the position is of."""
        new: list[TimedLine] = []
        for line in lines:
            if not resumption.is_new(line.at_ns):
                continue
            if resumption.lost_some(line.at_ns):
                await self._news_of(self._writers.get(writer.uid, writer))
                if self._writers.get(writer.uid, writer).run != writer.run:
                    return False
                await self._tell(writer, self._positions[writer.uid], _ROTATED)
            new.append(line)
        for start in range(0, len(new), _BATCH_LINES):
            await self._send(self._writers.get(writer.uid, writer), new[start : start + _BATCH_LINES])
        return True

    async def _send(self, writer: Writer, lines: Sequence[TimedLine]) -> None:
        while await self._streams.client.xlen(LOGS_INGEST) > _STREAM_ENTRIES:  # noqa: ASYNC110 - another service empties it
            await asyncio.sleep(_RETRY_S)
        position = self._positions[writer.uid].numbered_under(writer.deployment_id)
        message = _message(writer)
        for line in lines:
            for number, text in enumerate(line.texts, start=position.sequence + 1):
                _add(message, number, text, _APP, line.at_ns)
            position = position.after(line.at_ns, lines=len(line.texts))
        await self._streams.publish(LOGS_INGEST, [message], tenant_id=writer.team_id)
        self._move(writer.uid, position)

    async def _tell(self, writer: Writer, position: Position, text: str) -> None:
        """A line of the platform's own."""
        position = position.numbered_under(writer.deployment_id).told()
        message = _message(writer)
        _add(message, position.sequence, text, _PLATFORM, int(datetime.now(UTC).timestamp()) * 1_000_000_000)
        await self._streams.publish(LOGS_INGEST, [message], tenant_id=writer.team_id)
        self._move(writer.uid, position)

    def _move(self, uid: str, position: Position) -> None:
        self._positions[uid] = position
        self._unsaved.add(uid)


def _still(writer: Writer, before: Writer | None) -> Writer:
    """Whose it was before, where that is not known any more."""
    if writer.deployment_id or before is None:
        return writer
    return replace(
        writer, deployment_id=before.deployment_id, team_id=before.team_id, process=before.process, index=before.index
    )


def _message(writer: Writer) -> events_pb2.LogBatch:
    return events_pb2.LogBatch(
        stream_id=f"{writer.deployment_id}/app/{writer.process}/{writer.uid}",
        deployment_id=writer.deployment_id,
        project_id=writer.project_id,
        team_id=writer.team_id,
        source=types_pb2.LOG_SOURCE_APP,
        instance=writer.index,
    )


def _add(message: events_pb2.LogBatch, number: int, text: str, channel: str, at_ns: int) -> None:
    entry = message.lines.add(sequence=number, text=text, channel=channel)
    entry.time.FromNanoseconds(at_ns)
