"""Producers' batches into chunks, chunks into entries. Used by the handlers; pure, and slow enough to be called in a thread."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.log.v1 import log_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.log.domain import Chunk, Progress, Query, StreamKey
from shipoff.log.transitions import accept

_CHUNK_LINES = 1000
_CHUNK_BYTES = 512 << 10
# The fastest level: ingest is bound by it, and the next ones save a few per cent of log lines only.
_LEVEL = 1


@dataclass(frozen=True)
class Plan:
    """What a transaction has to write."""

    chunks: list[Chunk]
    progress: dict[StreamKey, Progress]


def key_of(batch: events_pb2.LogBatch) -> StreamKey:
    """Names the batch's stream."""
    return StreamKey(batch.deployment_id, batch.stream_id)


def plan(
    batches: Iterable[events_pb2.LogBatch],
    last_positions: Mapping[str, int],
    progress: Mapping[StreamKey, Progress],
    *,
    now: datetime,
) -> Plan:
    """The chunks of all lines that are new, with positions that follow the last ones."""
    reached = dict(progress)
    writers = {deployment: _Writer(deployment, last, now) for deployment, last in last_positions.items()}
    for batch in batches:
        stream = key_of(batch)
        accepted = accept(reached.get(stream, Progress()), [line.sequence for line in batch.lines], now=now)
        reached[stream] = accepted.progress
        lines = batch.lines if len(accepted.indices) == len(batch.lines) else [batch.lines[i] for i in accepted.indices]
        writers[batch.deployment_id].add(batch.source, batch.instance, lines)
    return Plan([chunk for writer in writers.values() for chunk in writer.finish()], reached)


def platform_chunk(deployment_id: str, last_position: int, *, instance: int, text: str, now: datetime) -> Chunk:
    """A line of the platform's own, after the last position."""
    line = types_pb2.LogLine(text=text)
    line.time.FromDatetime(now)
    writer = _Writer(deployment_id, last_position, now)
    writer.add(types_pb2.LOG_SOURCE_PLATFORM, instance, [line])
    return writer.finish()[0]


@dataclass
class _Writer:
    """Joins the batches of one deployment into chunks."""

    deployment_id: str
    last: int
    now: datetime
    _done: list[Chunk] = field(default_factory=list)
    _open: events_pb2.LogBatch = field(default_factory=events_pb2.LogBatch)
    _bytes: int = 0

    def add(self, source: types_pb2.LogSource.ValueType, instance: int, lines: Sequence[types_pb2.LogLine]) -> None:
        if not lines:
            return
        if (self._open.source, self._open.instance) != (source, instance):
            self._close()
            self._open.source, self._open.instance = source, instance
        self._open.lines.extend(lines)
        if len(self._open.lines) >= _CHUNK_LINES or self._open.ByteSize() >= _CHUNK_BYTES:
            self._close()

    def finish(self) -> list[Chunk]:
        self._close()
        return self._done

    def _close(self) -> None:
        lines, source, instance = self._open.lines, self._open.source, self._open.instance
        self._open = events_pb2.LogBatch()
        if not lines:
            return
        first = self.last + 1
        self.last += len(lines)
        chunk = Chunk(
            deployment_id=self.deployment_id,
            first_position=first,
            last_position=self.last,
            source=source,
            instance=instance,
            received_at=self.now,
            first_time=_time(lines[0], self.now),
            last_time=_time(lines[-1], self.now),
            payload=zlib.compress(events_pb2.LogBatch(lines=lines).SerializeToString(), _LEVEL),
        )
        self._done.append(chunk)


def _time(line: types_pb2.LogLine, otherwise: datetime) -> datetime:
    """The producer's time, or the one given where it is missing or no date of ours."""
    try:
        return line.time.ToDatetime(tzinfo=UTC) if line.HasField("time") else otherwise
    except (ValueError, OverflowError):
        return otherwise


def entries(chunk: Chunk) -> Sequence[log_pb2.Entry]:
    """The chunk's lines with their positions."""
    batch = events_pb2.LogBatch.FromString(zlib.decompress(chunk.payload))
    source = types_pb2.LogSource.ValueType(chunk.source)
    found = []
    for position, line in enumerate(batch.lines, chunk.first_position):
        if not line.HasField("time"):
            line.time.FromDatetime(chunk.received_at)
        found.append(log_pb2.Entry(position=position, source=source, instance=chunk.instance, line=line))
    return found


# A fresh chunk goes to everyone who follows its deployment: decoded once for all of them.
shared_entries = functools.lru_cache(maxsize=16)(entries)


def wanted(chunk: Chunk, query: Query, *, shared: bool = False) -> Sequence[log_pb2.Entry]:
    """The chunk's entries that the query asks for."""
    if not query.wants(chunk.source) or chunk.last_position <= query.after:
        return ()
    found = shared_entries(chunk) if shared else entries(chunk)
    return found[max(0, query.after + 1 - chunk.first_position) :]
