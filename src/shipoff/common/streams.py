"""Redis Streams: envelopes, publishing, and consumer groups that reclaim, retry, dead-letter and trim.

A group reads every entry at least once. An entry that fails for a reason of its own is tried again with backoff and after
MAX_TRIES put on `<stream>.dead`; one that fails because something is away (TemporaryError) is tried for as long as it takes.
Entries are removed once every group of GROUPS has acknowledged them, never before.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import redis.asyncio as aioredis
import structlog
from google.protobuf.message import DecodeError, Message
from google.protobuf.symbol_database import Default as symbol_database
from redis import exceptions as redis_errors

from shipoff.common.errors import Exhausted, InvalidInput, PermanentError, TemporaryError, Unavailable
from shipoff.common.failpoints import crossing
from shipoff.common.ids import new_id
from shipoff.common.lifecycle import background
from shipoff.common.telemetry import Context, current, working_on
from shipoff.contracts.events.v1 import events_pb2

DEPLOYMENT_QUEUE = "streams.deployment.queue"
DEPLOYMENT_PROGRESS = "streams.deployment.progress"
LOGS_INGEST = "streams.logs.ingest"
RUNTIME_EVENTS = "streams.runtime.events"

# Who reads what. An entry is removed when all of these have acknowledged it.
GROUPS: dict[str, tuple[str, ...]] = {
    DEPLOYMENT_QUEUE: ("orchestrator",),
    DEPLOYMENT_PROGRESS: ("orchestrator", "cdn", "worker"),
    LOGS_INGEST: ("log",),
    RUNTIME_EVENTS: ("orchestrator", "worker"),
}

MAX_TRIES = 5
# The newest dead letters of a stream; each is an event that somebody has to look at, so that more is a flood of the same.
DEAD_KEPT = 10_000
# The fields of an entry: the envelope, and the only group that it is for where it is not for all of them.
PAYLOAD = b"e"
RECIPIENT = b"to"
_EPOCH_KEY = "shipoff:epoch"
_COMMAND_S = 5.0

log = structlog.get_logger()

EntryId = tuple[int, int]


@dataclass(frozen=True)
class Event:
    """One event as a handler sees it."""

    id: str
    type: str
    time: datetime
    tenant_id: str
    message: Message
    traceparent: str = ""


def envelope(message: Message, *, tenant_id: str, event_id: str | None = None) -> events_pb2.Envelope:
    """Wraps a payload with a new id, the time, the tenant and the current trace context."""
    wrapped = events_pb2.Envelope(
        id=event_id or new_id(),
        type=message.DESCRIPTOR.full_name,
        version=1,
        tenant_id=tenant_id,
        traceparent=current().traceparent,
        payload=message.SerializeToString(),
    )
    wrapped.time.FromDatetime(datetime.now(UTC))
    return wrapped


def decode(data: bytes) -> Event:
    """The event in an entry. Raises InvalidInput when it is none of ours."""
    try:
        wrapped = events_pb2.Envelope.FromString(data)
        message: Message = symbol_database().GetSymbol(wrapped.type).FromString(wrapped.payload)
    except (DecodeError, KeyError) as error:
        raise InvalidInput(f"not an event: {error}") from error
    return Event(
        id=wrapped.id,
        type=wrapped.type,
        time=wrapped.time.ToDatetime(tzinfo=UTC),
        tenant_id=wrapped.tenant_id,
        message=message,
        traceparent=wrapped.traceparent,
    )


def parse_entry_id(text: bytes | str | int) -> EntryId:
    """An entry's id as numbers, which sort as Redis sorts them."""
    milliseconds, _, sequence = (text.decode() if isinstance(text, bytes) else str(text)).partition("-")
    return int(milliseconds), int(sequence or 0)


def dead_stream(stream: str) -> str:
    """Where a stream's dead letters are."""
    return f"{stream}.dead"


def format_entry_id(entry_id: EntryId) -> str:
    """The opposite of parse_entry_id."""
    return f"{entry_id[0]}-{entry_id[1]}"


@contextmanager
def translated() -> Iterator[None]:
    """Raises Unavailable and Exhausted instead of the driver's errors."""
    try:
        yield
    except (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError) as error:
        raise Unavailable(f"Redis is away: {error}") from error
    except redis_errors.ResponseError as error:
        full = isinstance(error, redis_errors.OutOfMemoryError) or str(error).startswith(("OOM", "MISCONF"))
        if full:
            raise Exhausted(f"Redis takes no writes: {error}", retry_after_s=5.0) from error
        raise


@dataclass(frozen=True)
class Published:
    """What became of a publish: the entries' ids, and in which life of the server they were written."""

    entry_ids: list[EntryId]
    epoch: str


class Streams:
    """The connection to Redis."""

    def __init__(self, url: str) -> None:
        self._url = url
        # No automatic retry: an XADD that timed out may have landed, so its caller decides.
        self.client = aioredis.Redis.from_url(url, socket_timeout=_COMMAND_S, retry=None, legacy_responses=False)

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Streams]:
        """Connects on first use, closes on leaving."""
        streams = cls(url)
        try:
            yield streams
        finally:
            await streams.client.aclose()

    def reader(self) -> aioredis.Redis:
        """A client of its own for blocking reads: no timeout of the socket's, the read has one."""
        return aioredis.Redis.from_url(self._url, socket_timeout=None, retry=None, legacy_responses=False)

    async def publish(self, stream: str, messages: Sequence[Message], *, tenant_id: str) -> Published:
        """Appends events straight away, without an outbox: for log lines. Raises Unavailable, Exhausted."""
        return await self.append(stream, [envelope(m, tenant_id=tenant_id).SerializeToString() for m in messages])

    async def append(self, stream: str, envelopes: Sequence[bytes]) -> Published:
        """Appends serialized envelopes in one transaction of Redis'. Raises Unavailable, Exhausted."""
        with translated():
            pipe = self.client.pipeline(transaction=True)
            self._ask_epoch(pipe)
            for data in envelopes:
                pipe.xadd(stream, {PAYLOAD: data})
            crossing("before publish")
            answers = await pipe.execute()
            crossing("after publish")
        return Published([parse_entry_id(entry) for entry in answers[3:]], self._epoch(answers))

    @staticmethod
    def _ask_epoch(pipe: Any) -> None:
        pipe.set(_EPOCH_KEY, secrets.token_hex(8), nx=True)
        pipe.get(_EPOCH_KEY)
        pipe.info("server")

    @staticmethod
    def _epoch(answers: Sequence[Any]) -> str:
        run_id = answers[2]["run_id"]
        return f"{answers[1].decode()}:{run_id.decode() if isinstance(run_id, bytes) else run_id}"

    async def epoch(self) -> str:
        """Names the present life of the server: it changes with a restart (its last second may be lost) and a FLUSHALL."""
        with translated():
            pipe = self.client.pipeline(transaction=True)
            self._ask_epoch(pipe)
            return self._epoch(await pipe.execute())

    async def done_before(self, stream: str) -> EntryId | None:
        """Every entry below this id has been acknowledged by all groups; None while a group does not exist yet."""
        with translated():
            if not await self.client.exists(stream):
                return None
            groups = {g["name"].decode(): g for g in await self.client.xinfo_groups(stream)}
            edges: list[EntryId] = []
            for name in GROUPS[stream]:
                if name not in groups:
                    return None
                edges.append(await self._group_edge(stream, name, groups[name]))
        return min(edges)

    async def _group_edge(self, stream: str, name: str, info: dict[str, Any]) -> EntryId:
        """The first id this group is not done with."""
        delivered = parse_entry_id(info["last-delivered-id"])
        after = (delivered[0], delivered[1] + 1)
        if not info["pending"]:
            return after
        pending = await self.client.xpending_range(stream, name, min="-", max="+", count=1)
        return min(after, parse_entry_id(pending[0]["message_id"])) if pending else after

    async def trim(self, stream: str) -> None:
        """Removes what every group is done with."""
        edge = await self.done_before(stream)
        if edge is not None and edge > (0, 1):
            with translated():
                await self.client.xtrim(stream, minid=format_entry_id(edge), approximate=False)


BatchHandler = Callable[[Sequence[Event]], Awaitable[None]]


@dataclass(frozen=True)
class ConsumerOptions:
    """How a consumer behaves; the defaults suit every service."""

    batch: int = 64
    block_ms: int = 5000
    # What another consumer has left unacknowledged for this long is taken over: above the longest handler.
    reclaim_idle_s: float = 30.0
    first_backoff_s: float = 0.5
    longest_backoff_s: float = 30.0
    max_tries: int = MAX_TRIES
    # How often it looks for what dead consumers left, and trims; four times as often while something waits for a retry.
    upkeep_s: float = 4.0


class Consumer:
    """One member of a consumer group. Calls the handler with batches, then acknowledges."""

    def __init__(
        self, streams: Streams, stream: str, group: str, handle: BatchHandler, *, options: ConsumerOptions | None = None
    ) -> None:
        self._streams = streams
        self._stream = stream
        self._group = group
        self._recipient = group.encode()
        self._handle = handle
        self._options = options or ConsumerOptions()
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._temporary: dict[bytes, int] = {}
        # Why an entry failed here the last time, for its dead letter.
        self._failures: dict[bytes, str] = {}
        self._waiting = False
        # Acknowledged something since the last trim; what a former process acknowledged is trimmed at the start.
        self._untrimmed = True

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Consumes beside the block."""
        async with background(f"consume {self._stream} as {self._group}", self._consume):
            yield

    async def _consume(self) -> None:
        reader = self._streams.reader()
        try:
            await self._ensure_group()
            next_upkeep = 0.0
            while True:
                if asyncio.get_running_loop().time() >= next_upkeep:
                    await self._upkeep()
                    next_upkeep = asyncio.get_running_loop().time() + self._upkeep_pause_s()
                await self._process(await self._read(reader))
        finally:
            await reader.aclose()

    def _upkeep_pause_s(self) -> float:
        return self._options.upkeep_s / 4 if self._waiting else self._options.upkeep_s

    async def _ensure_group(self) -> None:
        with translated():
            try:
                await self._streams.client.xgroup_create(self._stream, self._group, id="0", mkstream=True)
            except redis_errors.ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    def _block_ms(self) -> int:
        return min(self._options.block_ms, int(self._upkeep_pause_s() * 1000))

    async def _read(self, reader: aioredis.Redis) -> list[tuple[bytes, bytes]]:
        try:
            with translated():
                answer = await reader.xreadgroup(
                    self._group, self.name, {self._stream: ">"}, count=self._options.batch, block=self._block_ms()
                )
        except redis_errors.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            # Redis lost everything: begin again; the outboxes publish again what was under way.
            await self._ensure_group()
            return []
        return await self._own([entry for entries in _per_stream(answer) for entry in entries])

    async def _own(self, entries: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> list[tuple[bytes, bytes]]:
        """The entries with their payloads; acknowledges those that were replayed for another group alone."""
        others = [entry_id for entry_id, fields in entries if fields.get(RECIPIENT, self._recipient) != self._recipient]
        if others:
            with translated():
                await self._streams.client.xack(self._stream, self._group, *others)
            self._untrimmed = True
        return [(entry_id, fields.get(PAYLOAD, b"")) for entry_id, fields in entries if entry_id not in others]

    async def _process(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        if len(entries) == 1:
            await self._deliver_alone(entries[0])
        elif entries:
            try:
                await self._deliver(entries)
            except Exception:
                for entry in entries:
                    await self._deliver_alone(entry)

    async def _deliver(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        events = [decode(data) for _, data in entries]
        first = events[0]
        with working_on(Context(tenant_id=first.tenant_id if len(events) == 1 else "", traceparent=first.traceparent)):
            await self._handle(events)
        crossing("before acknowledgement")
        with translated():
            await self._streams.client.xack(self._stream, self._group, *(entry_id for entry_id, _ in entries))
        crossing("after acknowledgement")
        self._untrimmed = True
        for entry_id, _ in entries:
            self._forget(entry_id)

    async def _deliver_alone(self, entry: tuple[bytes, bytes]) -> None:
        """A failed batch is tried one by one, so that one bad event does not hold up its neighbours."""
        try:
            await self._deliver([entry])
            return
        except TemporaryError as error:
            self._temporary[entry[0]] = self._temporary.get(entry[0], 0) + 1
            log.info("event waits", stream=self._stream, group=self._group, entry=entry[0].decode(), error=str(error))
        except PermanentError as error:
            await self._bury(entry, reason=f"{type(error).__name__}: {error}", tries=1)
        except Exception as error:
            self._failures[entry[0]] = f"{type(error).__name__}: {error}"
            log.exception("event failed", stream=self._stream, group=self._group, entry=entry[0].decode(), error=str(error))
        self._waiting = True

    async def _upkeep(self) -> None:
        """Takes over what dead consumers left, tries again what failed here, trims."""
        with translated():
            pending = await self._streams.client.xpending_range(
                self._stream, self._group, min="-", max="+", count=200, idle=int(self._options.first_backoff_s * 1000)
            )
        # Somebody's work that is not acknowledged: this one's to be tried again, or a dead consumer's to be taken over.
        self._waiting = bool(pending)
        for entry in pending:
            if self._is_due(entry):
                await self._retry(entry)
        if self._untrimmed:
            self._untrimmed = False
            await self._streams.trim(self._stream)

    def _is_due(self, entry: dict[str, Any]) -> bool:
        idle_s = int(entry["time_since_delivered"]) / 1000
        if entry["consumer"].decode() != self.name:
            return idle_s >= self._options.reclaim_idle_s
        tries = max(int(entry["times_delivered"]), self._temporary.get(entry["message_id"], 1))
        backoff = self._options.first_backoff_s * 2 ** min(tries - 1, 16)
        return idle_s >= min(float(backoff), self._options.longest_backoff_s)

    async def _retry(self, entry: dict[str, Any]) -> None:
        entry_id, tries = entry["message_id"], int(entry["times_delivered"])
        # A wait for something that is away is no try of the event's.
        count = 1 if entry_id in self._temporary else tries + 1
        with translated():
            claimed: list[Any] = await self._streams.client.xclaim(
                self._stream,
                self._group,
                self.name,
                min_idle_time=int(self._options.first_backoff_s * 1000),
                message_ids=[entry_id],
                retrycount=count,
            )
        for claimed_id, fields in claimed:
            if fields is None:
                with translated():
                    await self._streams.client.xack(self._stream, self._group, claimed_id)
                continue
            own = await self._own([(claimed_id, fields)])
            if own and tries >= self._options.max_tries and entry_id not in self._temporary:
                reason = self._failures.get(entry_id, "its consumer died while handling it")
                await self._bury(own[0], reason=reason, tries=tries)
            else:
                await self._process(own)

    async def _bury(self, entry: tuple[bytes, bytes], *, reason: str, tries: int) -> None:
        """Moves an entry to the dead letters, with the reason, in one transaction of Redis'."""
        log.error(
            "event dead-lettered",
            stream=self._stream,
            group=self._group,
            entry=entry[0].decode(),
            reason=reason,
            tries=tries,
        )
        fields: dict[Any, Any] = {
            PAYLOAD: entry[1],
            "group": self._group,
            "entry": entry[0],
            "reason": reason,
            "tries": tries,
        }
        with translated():
            pipe = self._streams.client.pipeline(transaction=True)
            pipe.xadd(dead_stream(self._stream), fields)
            pipe.xack(self._stream, self._group, entry[0])
            pipe.xtrim(dead_stream(self._stream), maxlen=DEAD_KEPT, approximate=False)
            _, _, dropped = await pipe.execute()
        if dropped:
            log.error("dead letters dropped", stream=self._stream, count=dropped, kept=DEAD_KEPT)
        self._forget(entry[0])

    def _forget(self, entry_id: bytes) -> None:
        self._temporary.pop(entry_id, None)
        self._failures.pop(entry_id, None)


def _per_stream(answer: Any) -> Iterator[list[tuple[bytes, dict[bytes, bytes]]]]:
    """The entries of an XREADGROUP answer, in RESP3's form (a map) as in RESP2's (a list)."""
    if not answer:
        return
    batches = answer.values() if isinstance(answer, dict) else (entries for _, entries in answer)
    for batch in batches:
        for entries in batch if batch and isinstance(batch[0], list) else [batch]:
            yield [(entry_id, fields) for entry_id, fields in entries if fields]
