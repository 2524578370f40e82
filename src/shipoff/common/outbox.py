"""Events that leave exactly when their rows do, and are handled exactly once.

Outbox: a service writes its rows and its events in one transaction, publishes them from memory as soon as that is durable, and
keeps each row until every consumer group has acknowledged it: what a process that died left, and whatever Redis loses, is
published from the table. Inbox: a consumer records an event's id in the transaction of its own writes.
(Pattern: "Transactional outbox", microservices.io.)
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa
from google.protobuf.message import Message

from shipoff.common.consumers import BatchHandler
from shipoff.common.errors import InvalidInput
from shipoff.common.lifecycle import background, looping
from shipoff.common.postgres import Database, Transaction, unnested
from shipoff.common.streams import EntryId, Event, Streams, envelope
from shipoff.common.telemetry import working_on
from shipoff.contracts.events.v1 import events_pb2

OUTBOX_DDL = [
    """CREATE TABLE outbox (
        position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        stream text NOT NULL,
        envelope bytea NOT NULL,
        written_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        -- The life of Redis it was published in, and where; null: not published, or only its process knows.
        epoch text,
        entry_ms bigint,
        entry_seq bigint
    )""",
    "CREATE INDEX outbox_unmarked ON outbox (position) WHERE epoch IS NULL",
]
INBOX_DDL = [
    """CREATE TABLE inbox (
        consumer text NOT NULL,
        event_id uuid NOT NULL,
        seen_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (consumer, event_id)
    )""",
    "CREATE INDEX inbox_seen ON inbox (seen_at)",
]

_BATCH = 500
# How often what has been published is forgotten, or marked so that everybody knows.
_CONFIRM_S = 4.0
# Whoever wrote it would have marked it by now: its process died, or never learnt that the commit had happened.
_ORPHANED_S = 10.0
# While Redis is away. What is more is left to the table.
_MOST_REMEMBERED = 10_000
_INBOX_KEPT = "7 days"
# Above every position.
_ENDLESS = 2**63 - 1

# In the order of the array, which is that of the positions. Also a part of statements that write other tables besides.
INSERTION = (
    "INSERT INTO outbox (stream, envelope) SELECT :stream, envelope"
    " FROM unnest(CAST(:envelopes AS bytea[])) WITH ORDINALITY AS given (envelope, n) ORDER BY n RETURNING position"
)
_INSERT = sa.text(INSERTION)
_TAKE = sa.text(
    "SELECT position, stream, envelope FROM outbox WHERE epoch IS NULL"
    " AND written_at <= clock_timestamp() - make_interval(secs => :age_s) AND position <= :last AND position <> ALL(:known)"
    " ORDER BY position LIMIT :batch FOR UPDATE SKIP LOCKED"
)
_MARKED = {"position": "bigint", "epoch": "text", "ms": "bigint", "seq": "bigint"}
_MARK = sa.text(
    f"UPDATE outbox SET epoch = given.epoch, entry_ms = ms, entry_seq = seq FROM {unnested(_MARKED)}"  # noqa: S608 - a constant
    " WHERE outbox.position = given.position"
)
_DELETE = sa.text("DELETE FROM outbox WHERE position = ANY(:positions)")
_FORGET = sa.text("DELETE FROM outbox WHERE stream = :stream AND epoch = :epoch AND (entry_ms, entry_seq) < (:ms, :seq)")
_AGAIN = sa.text("UPDATE outbox SET epoch = NULL, entry_ms = NULL, entry_seq = NULL WHERE epoch <> :epoch")
_LAST = sa.text("SELECT position FROM outbox ORDER BY position DESC LIMIT 1")
_ANY = sa.text("SELECT 1 FROM outbox LIMIT 1")
# In one order, so that two that are handed the same events wait for each other and never stand in each other's way.
_SEEN = sa.text(
    "INSERT INTO inbox (consumer, event_id) SELECT :consumer, id FROM unnest(CAST(:ids AS uuid[])) AS id ORDER BY id"
    " ON CONFLICT DO NOTHING RETURNING event_id"
)
_CLEAN_INBOX = sa.text(f"DELETE FROM inbox WHERE seen_at < now() - interval '{_INBOX_KEPT}'")  # noqa: S608 - a constant


@dataclass(frozen=True)
class Leaving:
    """Serialized events on their way into the table."""

    stream: str
    envelopes: tuple[bytes, ...]

    @property
    def values(self) -> Mapping[str, object]:
        """The parameters of `INSERTION`."""
        return {"stream": self.stream, "envelopes": list(self.envelopes)}


@dataclass(frozen=True)
class _Row:
    """An event of the table's."""

    position: int
    stream: str
    envelope: bytes


@dataclass(frozen=True)
class _Sent:
    """Where an event lies in Redis, and in which of its lives."""

    stream: str
    epoch: str
    entry: EntryId


class Outbox:
    """A service's outgoing events."""

    def __init__(self, database: Database, streams: Streams, *, producing: Sequence[str]) -> None:
        self._database = database
        self._streams = streams
        self._producing = tuple(producing)
        self._wake = asyncio.Event()
        # What this process has committed and not published yet; what it has published and not marked yet, by position; both.
        self._fresh: list[_Row] = []
        self._sent: dict[int, _Sent] = {}
        self._known: set[int] = set()

    async def emit(self, tx: Transaction, stream: str, message: Message, *, tenant_id: str) -> None:
        """Writes an event into the transaction; it is published once that is durable."""
        await self.emit_all(tx, stream, [envelope(message, tenant_id=tenant_id)])

    async def emit_all(self, tx: Transaction, stream: str, envelopes: Sequence[events_pb2.Envelope]) -> None:
        """Likewise for many, in their order."""
        leaving = self.leaving(stream, envelopes)
        self.written(tx, leaving, [row["position"] for row in await tx.all(_INSERT, leaving.values)])

    def leaving(self, stream: str, envelopes: Sequence[events_pb2.Envelope]) -> Leaving:
        """For a statement that `INSERTION` is a part of. Raises InvalidInput for a stream that is not this service's."""
        if stream not in self._producing:
            raise InvalidInput(f"this service does not produce {stream}", field="stream")
        return Leaving(stream, tuple(one.SerializeToString() for one in envelopes))

    def written(self, tx: Transaction, leaving: Leaving, positions: Sequence[int]) -> None:
        """Has it published once that is durable; `positions` are those that `INSERTION` returned."""
        placed = zip(sorted(positions), leaving.envelopes, strict=True)
        rows = [_Row(position, leaving.stream, data) for position, data in placed]
        tx.after_commit(partial(self._committed, rows))

    def _committed(self, rows: Sequence[_Row]) -> None:
        if len(self._fresh) < _MOST_REMEMBERED:
            self._fresh += rows
            self._known.update(row.position for row in rows)
        self._wake.set()

    @asynccontextmanager
    async def relaying(self) -> AsyncIterator[None]:
        """Publishes beside the block; on leaving, what is committed has been published or stays for the next start."""
        # What this process writes comes after it.
        last = await self._database.one_or_none(_LAST)
        async with (
            looping("outbox relay", self.publish_pending, every_s=_CONFIRM_S, wake=self._wake),
            background("outbox confirmation", lambda: self._confirm_forever(last["position"] if last else 0)),
        ):
            yield

    async def publish_pending(self) -> None:
        """Publishes what this process has committed, in the order of its commits, without reading it again."""
        while self._fresh:
            rows, self._fresh = self._fresh[:_BATCH], self._fresh[_BATCH:]
            try:
                self._sent |= await self._publish(rows)
            except BaseException:
                # It may have landed all the same; twice does nothing.
                self._fresh = rows + self._fresh
                raise

    async def _publish(self, rows: Sequence[_Row]) -> dict[int, _Sent]:
        by_stream: dict[str, list[_Row]] = defaultdict(list)
        for row in rows:
            by_stream[row.stream].append(row)
        sent: dict[int, _Sent] = {}
        for stream, batch in by_stream.items():
            published = await self._streams.append(stream, [row.envelope for row in batch])
            for row, entry in zip(batch, published.entry_ids, strict=True):
                sent[row.position] = _Sent(stream, published.epoch, entry)
        return sent

    async def _adopt(self, *, age_s: float, last: int = _ENDLESS) -> None:
        """Publishes what has stood in the table for so long and nobody has marked, unless this process does so anyway."""
        taken = _BATCH
        while taken == _BATCH:
            async with self._database.transaction() as tx:
                wanted = {"batch": _BATCH, "age_s": age_s, "last": last, "known": list(self._known)}
                rows = [_Row(**row) for row in await tx.all(_TAKE, wanted)]
                if rows:
                    await tx.execute(_MARK, _marks(await self._publish(rows)))
            taken = len(rows)

    async def _confirm_forever(self, found: int) -> None:
        # Of whoever was here before; what somebody beside this process is about to mark goes out twice.
        await self._adopt(age_s=0.0, last=found)
        while True:
            await self.confirm()
            await asyncio.sleep(_CONFIRM_S)

    async def confirm(self) -> None:
        """Forgets what every group has acknowledged and marks the rest; publishes again what a former life of Redis held,
        and what others left unpublished."""
        sent = dict(self._sent)
        if await self._database.one_or_none(_ANY):
            epoch = await self._streams.epoch()
            edges = {stream: await self._streams.done_before(stream) for stream in self._producing}
            if await self._streams.epoch() != epoch:
                return
            again = await self._settle(sent, epoch, edges)
            self._forget(sent)
            await self._adopt(age_s=0.0 if again else _ORPHANED_S)
        else:
            self._forget(sent)

    def _forget(self, positions: Iterable[int]) -> None:
        for position in positions:
            del self._sent[position]
            self._known.discard(position)

    async def _settle(self, sent: Mapping[int, _Sent], epoch: str, edges: Mapping[str, EntryId | None]) -> bool:
        """Whether anything has to be published again."""

        def done(one: _Sent) -> bool:
            edge = edges[one.stream]
            return one.epoch == epoch and edge is not None and one.entry < edge

        rest = {position: one for position, one in sent.items() if not done(one)}
        async with self._database.transaction() as tx:
            if len(rest) < len(sent):
                await tx.execute(_DELETE, {"positions": list(sent.keys() - rest.keys())})
            if rest:
                await tx.execute(_MARK, _marks(rest))
            for stream, edge in edges.items():
                if edge is not None:
                    await tx.execute(_FORGET, {"stream": stream, "epoch": epoch, "ms": edge[0], "seq": edge[1]})
            return await tx.execute(_AGAIN, {"epoch": epoch}) > 0


def _marks(sent: Mapping[int, _Sent]) -> dict[str, object]:
    return {
        "position": list(sent),
        "epoch": [one.epoch for one in sent.values()],
        "ms": [one.entry[0] for one in sent.values()],
        "seq": [one.entry[1] for one in sent.values()],
    }


Handler = Callable[[Transaction, Event], Awaitable[None]]
# A batch's transaction: entered with all of its events, it gives what handles each of them in turn.
Handling = Callable[[Transaction, Sequence[Event]], AbstractAsyncContextManager[Callable[[Event], Awaitable[None]]]]


def inboxed(database: Database, consumer: str, handle: Handler, *, only: Collection[type] = ()) -> BatchHandler:
    """A batch handler that calls `handle` once for each event ever, its writes and the event's id in one transaction.

    Each is handled under its own ids, whichever batch it came in. `only` names the messages it is for; others are passed over
    without a trace. Empty: all.
    """

    @asynccontextmanager
    async def handling(tx: Transaction, _: Sequence[Event]) -> AsyncIterator[Callable[[Event], Awaitable[None]]]:
        yield partial(handle, tx)

    return inboxed_together(database, consumer, handling, only=only)


def inboxed_together(database: Database, consumer: str, handling: Handling, *, only: Collection[type] = ()) -> BatchHandler:
    """Likewise, for a service that reads and writes for all events of a batch at once, before and after their turns."""

    async def handle_batch(events: Sequence[Event]) -> None:
        wanted = {event.id: event for event in events if not only or type(event.message) in only}
        if not wanted:
            return
        async with database.transaction() as tx:
            unseen = await tx.all(_SEEN, {"consumer": consumer, "ids": list(wanted)})
            ids = {str(row["event_id"]) for row in unseen}
            new = [event for event in wanted.values() if event.id in ids]
            if not new:
                return
            async with handling(tx, new) as handle:
                for event in new:
                    with working_on(event.context):
                        await handle(event)

    return handle_batch


async def clean_inbox(database: Database) -> None:
    """Forgets events seen long ago; call it now and then."""
    async with database.transaction() as tx:
        await tx.execute(_CLEAN_INBOX)
