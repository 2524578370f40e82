"""Streams, outbox and inbox on a real Valkey, a real Redis 7 and a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from shipoff.common import consumers
from shipoff.common import outbox as outboxes
from shipoff.common.consumers import Consumer, ConsumerOptions
from shipoff.common.errors import InvalidInput, TemporaryError
from shipoff.common.ids import new_id
from shipoff.common.outbox import Outbox, inboxed
from shipoff.common.postgres import Database, Transaction
from shipoff.common.streams import DEPLOYMENT_QUEUE, LOGS_INGEST, Event, Streams, decode, envelope
from shipoff.common.telemetry import Context, current, new_traceparent, working_on
from shipoff.contracts.events.v1 import events_pb2
from shipoff.embedded.valkey import Valkey

QUICK = ConsumerOptions(
    block_ms=50, reclaim_idle_s=0.3, first_backoff_s=0.05, longest_backoff_s=0.2, max_tries=3, upkeep_s=0.05
)


@pytest.fixture
async def streams(redis_server: Valkey) -> AsyncIterator[Streams]:
    async with Streams.open(redis_server.url) as opened:
        yield opened


@pytest.fixture
async def database(database_url_for) -> AsyncIterator[Database]:
    async with Database.open(await database_url_for("orchestrator")) as opened:
        yield opened


def started(attempt: int) -> events_pb2.BuildStarted:
    return events_pb2.BuildStarted(deployment_id=new_id(), attempt=attempt)


class Recorder:
    """A handler that remembers, and fails as told."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.failures: dict[int, list[Exception]] = {}

    async def __call__(self, events: Sequence[Event]) -> None:
        for event in events:
            attempt = event.message.attempt
            if self.failures.get(attempt):
                raise self.failures[attempt].pop(0)
        self.seen += [event.message.attempt for event in events]


async def test_events_arrive_decoded_and_are_removed_once_acknowledged(streams, eventually):
    recorder = Recorder()
    async with Consumer(streams, LOGS_INGEST, "log", recorder, options=QUICK).running():
        await streams.publish(LOGS_INGEST, [started(1), started(2)], tenant_id="t")
        await eventually(lambda: sorted(recorder.seen) == [1, 2])

        async def empty() -> bool:
            return await streams.client.xlen(LOGS_INGEST) == 0

        await eventually(empty)


async def test_a_temporary_failure_is_tried_until_it_works_and_holds_up_nobody(streams, eventually):
    recorder = Recorder()
    recorder.failures[1] = [TemporaryError("away")] * 8
    async with Consumer(streams, LOGS_INGEST, "log", recorder, options=QUICK).running():
        await streams.publish(LOGS_INGEST, [started(1), started(2)], tenant_id="t")
        await eventually(lambda: recorder.seen == [2])
        await eventually(lambda: recorder.seen == [2, 1])
    assert await streams.client.xlen(f"{LOGS_INGEST}.dead") == 0


async def test_a_poison_event_is_dead_lettered_with_its_reason_after_its_tries(streams, eventually):
    recorder = Recorder()
    recorder.failures[1] = [ValueError("poison")] * 100
    recorder.failures[3] = [InvalidInput("no sense in it")]
    async with Consumer(streams, LOGS_INGEST, "log", recorder, options=QUICK).running():
        await streams.publish(LOGS_INGEST, [started(1), started(2), started(3)], tenant_id="t")

        async def buried() -> bool:
            return await streams.client.xlen(f"{LOGS_INGEST}.dead") == 2

        await eventually(buried)
    assert recorder.seen == [2]
    dead = {fields[b"reason"].decode() for _, fields in await streams.client.xrange(f"{LOGS_INGEST}.dead")}
    assert dead == {"ValueError: poison", "InvalidInput: no sense in it"}
    # Once with its neighbours, then alone as often as it may.
    assert 100 - len(recorder.failures[1]) == QUICK.max_tries + 1


async def test_what_is_done_is_acknowledged_with_the_next_read_or_on_leaving(streams, eventually):
    recorder = Recorder()
    # It reads for longer than the test lasts, and never looks at what is pending.
    slow = ConsumerOptions(block_ms=60_000, first_backoff_s=3600, upkeep_s=3600)
    leaving: list[bool] = []

    async def pending() -> int:
        return int((await streams.client.xpending(LOGS_INGEST, "log"))["pending"])

    async def handle(events: Sequence[Event]) -> None:
        await recorder(events)
        if leaving:
            consuming.cancel()

    async def consume() -> None:
        async with Consumer(streams, LOGS_INGEST, "log", handle, options=slow).running():
            await asyncio.Event().wait()

    consuming = asyncio.create_task(consume())
    await streams.publish(LOGS_INGEST, [started(1)], tenant_id="t")

    async def acknowledged() -> bool:
        return recorder.seen == [1] and await pending() == 0

    await eventually(acknowledged)
    leaving.append(True)
    await streams.publish(LOGS_INGEST, [started(2)], tenant_id="t")
    await asyncio.wait([consuming])
    assert recorder.seen == [1, 2]
    assert await pending() == 0


async def test_what_is_no_event_at_all_is_dead_lettered(streams, eventually):
    async with Consumer(streams, LOGS_INGEST, "log", Recorder(), options=QUICK).running():
        await streams.append(LOGS_INGEST, [b"\xff\xff"])

        async def buried() -> bool:
            return await streams.client.xlen(f"{LOGS_INGEST}.dead") == 1

        await eventually(buried)


async def test_what_a_dead_consumer_left_is_taken_over(streams, eventually):
    await streams.client.xgroup_create(LOGS_INGEST, "log", id="0", mkstream=True)
    await streams.publish(LOGS_INGEST, [started(7)], tenant_id="t")
    await streams.client.xreadgroup("log", "dead-consumer", {LOGS_INGEST: ">"})
    recorder = Recorder()
    async with Consumer(streams, LOGS_INGEST, "log", recorder, options=QUICK).running():
        await eventually(lambda: recorder.seen == [7])


async def test_nothing_is_trimmed_ahead_of_the_slowest_group(streams, eventually):
    from shipoff.common.streams import RUNTIME_EVENTS

    fast, slow = Recorder(), Recorder()
    await streams.client.xgroup_create(RUNTIME_EVENTS, "worker", id="0", mkstream=True)
    async with Consumer(streams, RUNTIME_EVENTS, "orchestrator", fast, options=QUICK).running():
        await streams.publish(RUNTIME_EVENTS, [started(n) for n in range(5)], tenant_id="t")
        await eventually(lambda: len(fast.seen) == 5)
        await streams.trim(RUNTIME_EVENTS)
        assert await streams.client.xlen(RUNTIME_EVENTS) == 5
        async with Consumer(streams, RUNTIME_EVENTS, "worker", slow, options=QUICK).running():
            await eventually(lambda: len(slow.seen) == 5)

            async def empty() -> bool:
                return await streams.client.xlen(RUNTIME_EVENTS) == 0

            await eventually(empty)


async def test_an_event_leaves_only_with_its_transaction(streams, database, eventually):
    outbox = Outbox(database, streams, producing=[DEPLOYMENT_QUEUE])
    async with outbox.relaying():

        async def emit_and_fail() -> None:
            async with database.transaction() as tx:
                await outbox.emit(tx, DEPLOYMENT_QUEUE, started(1), tenant_id="t")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            await emit_and_fail()
        async with database.transaction() as tx:
            await outbox.emit(tx, DEPLOYMENT_QUEUE, started(2), tenant_id="t")

        async def published() -> list[int]:
            return [decode(fields[b"e"]).message.attempt for _, fields in await streams.client.xrange(DEPLOYMENT_QUEUE)]

        async def one() -> bool:
            return bool(await published())

        await eventually(one)
        assert await published() == [2]


async def test_an_unacknowledged_event_is_published_again_after_redis_lost_everything(streams, database, eventually):
    outbox = Outbox(database, streams, producing=[DEPLOYMENT_QUEUE])
    recorder = Recorder()
    async with database.transaction() as tx:
        await outbox.emit(tx, DEPLOYMENT_QUEUE, started(1), tenant_id="t")
    await outbox.publish_pending()
    await streams.client.flushall()
    consumer = Consumer(streams, DEPLOYMENT_QUEUE, "orchestrator", recorder, options=QUICK)
    async with outbox.relaying(), consumer.running():
        await eventually(lambda: recorder.seen == [1])

        async def forgotten() -> bool:
            return await database.one_or_none(sa.text("SELECT count(*) AS n FROM outbox")) == {"n": 0}

        await eventually(forgotten)


async def attempts_in(streams: Streams) -> list[int]:
    return [decode(fields[b"e"]).message.attempt for _, fields in await streams.client.xrange(DEPLOYMENT_QUEUE)]


async def emitted(outbox: Outbox, database: Database, attempt: int) -> None:
    async with database.transaction() as tx:
        await outbox.emit(tx, DEPLOYMENT_QUEUE, started(attempt), tenant_id="t")


async def test_what_another_process_left_unpublished_leaves_once_it_is_old_enough(streams, database, monkeypatch):
    dead, living = (Outbox(database, streams, producing=[DEPLOYMENT_QUEUE]) for _ in range(2))
    await emitted(dead, database, 1)
    await emitted(living, database, 2)
    await living.publish_pending()
    await living.confirm()
    # It may be about to be published by whoever wrote it.
    assert await attempts_in(streams) == [2]
    monkeypatch.setattr(outboxes, "_ORPHANED_S", 0.0)
    for _ in range(3):
        await living.confirm()
    assert await attempts_in(streams) == [2, 1]


async def test_an_event_is_published_from_memory_and_once(streams, database, monkeypatch):
    """The table is read for what others left alone, however often and however old the rows are."""
    monkeypatch.setattr(outboxes, "_ORPHANED_S", 0.0)
    outbox = Outbox(database, streams, producing=[DEPLOYMENT_QUEUE])
    await emitted(outbox, database, 1)
    await outbox.confirm()
    assert await attempts_in(streams) == []
    await outbox.publish_pending()
    for _ in range(3):
        await outbox.confirm()
        await outbox.publish_pending()
    assert await attempts_in(streams) == [1]


async def test_what_could_not_be_published_is_tried_again_from_memory(streams, database, monkeypatch):
    outbox = Outbox(database, streams, producing=[DEPLOYMENT_QUEUE])
    for attempt in (1, 2):
        await emitted(outbox, database, attempt)
    with monkeypatch.context() as patch:
        patch.setattr(streams, "append", failing)
        with pytest.raises(TemporaryError):
            await outbox.publish_pending()
    await emitted(outbox, database, 3)
    await outbox.publish_pending()
    assert await attempts_in(streams) == [1, 2, 3]


async def failing(stream: str, envelopes: Sequence[bytes]) -> None:
    raise TemporaryError("away")


async def test_a_consumer_goes_on_after_flushall(streams, eventually):
    recorder = Recorder()
    async with Consumer(streams, LOGS_INGEST, "log", recorder, options=QUICK).running():
        await streams.publish(LOGS_INGEST, [started(1)], tenant_id="t")
        await eventually(lambda: recorder.seen == [1])
        await streams.client.flushall()
        await streams.publish(LOGS_INGEST, [started(2)], tenant_id="t")
        await eventually(lambda: recorder.seen == [1, 2])


IDS = [Context(request_id=f"r-{n}", tenant_id=f"t-{n}", traceparent=new_traceparent()) for n in range(3)]


async def emitted_under_its_own_ids(streams: Streams, database: Database) -> None:
    """One event for each of IDS, through the outbox, so that a consumer finds all of them in one batch."""
    outbox = Outbox(database, streams, producing=[DEPLOYMENT_QUEUE])
    for number, ids in enumerate(IDS):
        with working_on(ids):
            async with database.transaction() as tx:
                await outbox.emit(tx, DEPLOYMENT_QUEUE, started(number), tenant_id=ids.tenant_id)
    await outbox.publish_pending()


async def test_every_event_of_a_batch_is_handled_under_the_ids_it_was_emitted_under(streams, database, eventually):
    handled: dict[int, Context] = {}
    batches: list[Context] = []

    async def handle(tx: Transaction, event: Event) -> None:
        handled[event.message.attempt] = current()

    one_by_one = inboxed(database, "g", handle)

    async def deliver(events: Sequence[Event]) -> None:
        batches.append(current())
        await one_by_one(events)

    await emitted_under_its_own_ids(streams, database)
    async with Consumer(streams, DEPLOYMENT_QUEUE, "orchestrator", deliver, options=QUICK).running():
        await eventually(lambda: len(handled) == 3)
    assert handled == dict(enumerate(IDS))
    # What is done for all of them in one go belongs to none, and is linked to each.
    (batch,) = batches
    assert (batch.request_id, batch.tenant_id) == ("", "")
    assert batch.links == tuple(ids.traceparent for ids in IDS)
    assert batch.traceparent not in batch.links


async def test_what_is_said_of_an_event_that_fails_is_said_under_its_ids(streams, database, eventually, monkeypatch):
    said: list[tuple[str, Context]] = []

    def note(event: str, **_: object) -> None:
        said.append((event, current()))

    monkeypatch.setattr(consumers, "log", SimpleNamespace(info=note, exception=note, error=note))
    recorder = Recorder()
    # The batch fails at the first of them; then each has a reason of its own.
    recorder.failures[0] = [TemporaryError("away"), TemporaryError("away")]
    recorder.failures[1] = [ValueError("poison")] * 100
    recorder.failures[2] = [InvalidInput("no sense in it")]
    await emitted_under_its_own_ids(streams, database)
    async with Consumer(streams, DEPLOYMENT_QUEUE, "orchestrator", recorder, options=QUICK).running():
        await eventually(lambda: [event for event, _ in said].count("event dead-lettered") == 2)
    assert ("event waits", IDS[0]) in said
    assert ("event failed", IDS[1]) in said
    assert [ids for event, ids in said if event == "event dead-lettered"] == [IDS[2], IDS[1]]


async def test_an_event_delivered_twice_is_handled_once(database):
    handled: list[str] = []

    async def handle(tx: Transaction, event: Event) -> None:
        handled.append(event.id)

    event = decode(envelope(started(1), tenant_id="t").SerializeToString())
    deliver = inboxed(database, "g", handle)
    for _ in range(100):
        await deliver([event])
    assert handled == [event.id]


async def test_a_handler_that_fails_leaves_no_trace_of_the_event(database):
    async def fail(tx: Transaction, event: Event) -> None:
        raise TemporaryError("away")

    handled: list[str] = []

    async def handle(tx: Transaction, event: Event) -> None:
        handled.append(event.id)

    event = decode(envelope(started(1), tenant_id="t").SerializeToString())
    with pytest.raises(TemporaryError):
        await inboxed(database, "g", fail)([event])
    await inboxed(database, "g", handle)([event])
    assert handled == [event.id]
