"""Redis Streams: envelopes, publishing and trimming. Consumers are in common/consumers.py.

Entries are removed once every group of GROUPS has acknowledged them, never before.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import redis.asyncio as aioredis
from google.protobuf.message import DecodeError, Message
from google.protobuf.symbol_database import Default as symbol_database
from redis import exceptions as redis_errors

from shipoff.common.errors import Exhausted, InvalidInput, Unavailable
from shipoff.common.failpoints import crossing
from shipoff.common.ids import new_id
from shipoff.common.telemetry import Context, current
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

# The fields of an entry: the envelope, and the only group that it is for where it is not for all of them.
PAYLOAD = b"e"
RECIPIENT = b"to"
_EPOCH_KEY = "shipoff:epoch"
_RUN_ID = re.compile(rb"^run_id:(\w+)", re.MULTILINE)
_COMMAND_S = 5.0

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
    request_id: str = ""

    @property
    def context(self) -> Context:
        """The ids under which it is handled: those under which it was emitted."""
        return Context(request_id=self.request_id, tenant_id=self.tenant_id, traceparent=self.traceparent)


def envelope(message: Message, *, tenant_id: str, event_id: str | None = None) -> events_pb2.Envelope:
    """Wraps a payload with a new id, the time, the tenant, and the current request's id and trace context."""
    wrapped = events_pb2.Envelope(
        id=event_id or new_id(),
        type=message.DESCRIPTOR.full_name,
        version=1,
        tenant_id=tenant_id,
        traceparent=current().traceparent,
        request_id=current().request_id,
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
        request_id=wrapped.request_id,
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
        # As bytes, so that the driver leaves the answer alone: reading all of it into a dictionary takes longer than the rest.
        pipe.execute_command(b"INFO", b"server")

    @staticmethod
    def _epoch(answers: Sequence[Any]) -> str:
        run_id = _RUN_ID.search(answers[2])
        assert run_id is not None  # every server tells
        return f"{answers[1].decode()}:{run_id[1].decode()}"

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
