"""Events that leave exactly when their rows do, and are handled exactly once.

Outbox: a service writes its rows and its events in one transaction; the relay publishes them afterwards and keeps each row
until every consumer group has acknowledged it, so that whatever Redis loses is published again. Inbox: a consumer records
an event's id in the transaction of its own writes. (Pattern: "Transactional outbox", microservices.io.)
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import sqlalchemy as sa
from google.protobuf.message import Message

from shipoff.common.consumers import BatchHandler
from shipoff.common.errors import InvalidInput
from shipoff.common.lifecycle import background, looping
from shipoff.common.postgres import Database, Row, Transaction, unnested
from shipoff.common.streams import Event, Streams, envelope
from shipoff.common.telemetry import working_on
from shipoff.contracts.events.v1 import events_pb2

OUTBOX_DDL = [
    """CREATE TABLE outbox (
        position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        stream text NOT NULL,
        envelope bytea NOT NULL,
        -- The life of Redis it was published in, and where; null: it is still to be published.
        epoch text,
        entry_ms bigint,
        entry_seq bigint
    )""",
    "CREATE INDEX outbox_unpublished ON outbox (position) WHERE epoch IS NULL",
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
# Only for what another process left; a commit of this one wakes the relay at once.
_SWEEP_S = 4.0
_CONFIRM_S = 5.0
_INBOX_KEPT = "7 days"

# In the order of the array, which is that of the positions.
_INSERT = sa.text(
    "INSERT INTO outbox (stream, envelope)"
    " SELECT :stream, envelope FROM unnest(CAST(:envelopes AS bytea[])) WITH ORDINALITY AS given (envelope, n) ORDER BY n"
)
_TAKE = sa.text(
    "SELECT position, stream, envelope FROM outbox WHERE epoch IS NULL ORDER BY position LIMIT :batch FOR UPDATE SKIP LOCKED"
)
_PUBLISHED = unnested({"position": "bigint", "ms": "bigint", "seq": "bigint"})
_MARK = sa.text(
    f"UPDATE outbox SET epoch = :epoch, entry_ms = ms, entry_seq = seq FROM {_PUBLISHED}"  # noqa: S608 - a constant
    " WHERE outbox.position = given.position"
)
_FORGET = sa.text("DELETE FROM outbox WHERE stream = :stream AND epoch = :epoch AND (entry_ms, entry_seq) < (:ms, :seq)")
_AGAIN = sa.text("UPDATE outbox SET epoch = NULL, entry_ms = NULL, entry_seq = NULL WHERE epoch <> :epoch")
_ANY = sa.text("SELECT 1 FROM outbox LIMIT 1")
# In one order, so that two that are handed the same events wait for each other and never stand in each other's way.
_SEEN = sa.text(
    "INSERT INTO inbox (consumer, event_id) SELECT :consumer, id FROM unnest(CAST(:ids AS uuid[])) AS id ORDER BY id"
    " ON CONFLICT DO NOTHING RETURNING event_id"
)
_CLEAN_INBOX = sa.text(f"DELETE FROM inbox WHERE seen_at < now() - interval '{_INBOX_KEPT}'")  # noqa: S608 - a constant


class Outbox:
    """A service's outgoing events."""

    def __init__(self, database: Database, streams: Streams, *, producing: Sequence[str]) -> None:
        self._database = database
        self._streams = streams
        self._producing = tuple(producing)
        self._wake = asyncio.Event()

    async def emit(self, tx: Transaction, stream: str, message: Message, *, tenant_id: str) -> None:
        """Writes an event into the transaction; it is published once that is durable."""
        await self.emit_all(tx, stream, [envelope(message, tenant_id=tenant_id)])

    async def emit_all(self, tx: Transaction, stream: str, envelopes: Sequence[events_pb2.Envelope]) -> None:
        """Likewise for many, in their order."""
        if stream not in self._producing:
            raise InvalidInput(f"this service does not produce {stream}", field="stream")
        await tx.execute(_INSERT, {"stream": stream, "envelopes": [one.SerializeToString() for one in envelopes]})
        tx.after_commit(self._wake.set)

    @asynccontextmanager
    async def relaying(self) -> AsyncIterator[None]:
        """Publishes beside the block; on leaving, what is committed has been published or stays for the next start."""
        async with (
            looping("outbox relay", self.publish_pending, every_s=_SWEEP_S, wake=self._wake),
            background("outbox confirmation", self._confirm_forever),
        ):
            yield

    async def publish_pending(self) -> None:
        """Publishes everything committed and not yet published."""
        while await self._publish_batch():
            pass

    async def _publish_batch(self) -> bool:
        async with self._database.transaction() as tx:
            rows = await tx.all(_TAKE, {"batch": _BATCH})
            by_stream: dict[str, list[Row]] = defaultdict(list)
            for row in rows:
                by_stream[row["stream"]].append(row)
            for stream, batch in by_stream.items():
                published = await self._streams.append(stream, [row["envelope"] for row in batch])
                marks = {
                    "epoch": published.epoch,
                    "position": [row["position"] for row in batch],
                    "ms": [ms for ms, _ in published.entry_ids],
                    "seq": [seq for _, seq in published.entry_ids],
                }
                await tx.execute(_MARK, marks)
        return len(rows) == _BATCH

    async def _confirm_forever(self) -> None:
        while True:
            await self.confirm()
            await asyncio.sleep(_CONFIRM_S)

    async def confirm(self) -> None:
        """Forgets what every group has acknowledged; marks what a former life of Redis held for publishing again."""
        if not await self._database.one_or_none(_ANY):
            return
        epoch = await self._streams.epoch()
        edges = {stream: await self._streams.done_before(stream) for stream in self._producing}
        if await self._streams.epoch() != epoch:
            return
        async with self._database.transaction() as tx:
            for stream, edge in edges.items():
                if edge is not None:
                    await tx.execute(_FORGET, {"stream": stream, "epoch": epoch, "ms": edge[0], "seq": edge[1]})
            if await tx.execute(_AGAIN, {"epoch": epoch}):
                tx.after_commit(self._wake.set)


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
