"""Dead letters on a real Valkey and a real Redis 7: listed, shown without secrets, replayed to whom failed, dropped."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence

import pytest

from shipoff.common import consumers as consumers_module
from shipoff.common.consumers import Consumer, ConsumerOptions
from shipoff.common.deadletters import DeadLetters
from shipoff.common.errors import InvalidInput, NotFound
from shipoff.common.ids import new_id
from shipoff.common.outbox import inboxed
from shipoff.common.postgres import Database
from shipoff.common.streams import DEPLOYMENT_QUEUE, LOGS_INGEST, RUNTIME_EVENTS, Event, Streams
from shipoff.contracts.events.v1 import events_pb2
from shipoff.embedded.valkey import Valkey

QUICK = ConsumerOptions(block_ms=50, reclaim_idle_s=0.3, first_backoff_s=0.02, max_tries=2, upkeep_s=0.05)


@pytest.fixture
async def streams(redis_server: Valkey) -> AsyncIterator[Streams]:
    async with Streams.open(redis_server.url) as opened:
        yield opened


@pytest.fixture
def letters(streams: Streams) -> DeadLetters:
    return DeadLetters(streams)


def started(attempt: int) -> events_pb2.BuildStarted:
    return events_pb2.BuildStarted(deployment_id=new_id(), attempt=attempt)


class Handler:
    """Remembers what it handled; fails while it is broken."""

    def __init__(self, *, broken: bool = False) -> None:
        self.broken = broken
        self.seen: list[int] = []

    async def __call__(self, events: Sequence[Event]) -> None:
        if self.broken:
            raise InvalidInput("no sense in it")
        self.seen += [event.message.attempt for event in events]


async def everything(letters: DeadLetters, *, stream: str = "", group: str = "") -> list:
    return list(await letters.page(stream=stream, group=group, after="", limit=1000))


async def buried(letters: DeadLetters, count: int, eventually) -> list:
    async def enough() -> list:
        found = await everything(letters)
        return found if len(found) == count else []

    return await eventually(enough)


async def test_a_replayed_event_reaches_the_group_that_failed_and_no_other(streams, letters, eventually):
    worker, orchestrator = Handler(), Handler(broken=True)
    async with (
        Consumer(streams, RUNTIME_EVENTS, "worker", worker, options=QUICK).running(),
        Consumer(streams, RUNTIME_EVENTS, "orchestrator", orchestrator, options=QUICK).running(),
    ):
        await streams.publish(RUNTIME_EVENTS, [started(1)], tenant_id="team-1")
        (letter,) = await buried(letters, 1, eventually)
        assert (letter.stream, letter.group, letter.tries) == ("runtime.events", "orchestrator", 1)
        assert letter.reason == "InvalidInput: no sense in it"
        assert letter.event.tenant_id == "team-1"
        await eventually(lambda: worker.seen == [1])
        orchestrator.broken = False
        await letters.replay(letter.id)
        await eventually(lambda: orchestrator.seen == [1])

        async def everybody_is_done() -> bool:
            return await streams.client.xlen(RUNTIME_EVENTS) == 0

        await eventually(everybody_is_done)
    assert worker.seen == [1]
    assert await everything(letters) == []


async def test_what_was_replayed_for_another_is_passed_over_also_by_who_reclaims_it(streams, letters, eventually):
    orchestrator = Handler(broken=True)
    await streams.client.xgroup_create(RUNTIME_EVENTS, "worker", id="$", mkstream=True)
    async with Consumer(streams, RUNTIME_EVENTS, "orchestrator", orchestrator, options=QUICK).running():
        await streams.publish(RUNTIME_EVENTS, [started(1)], tenant_id="t")
        (letter,) = await buried(letters, 1, eventually)
    await streams.client.xgroup_setid(RUNTIME_EVENTS, "worker", "$")
    await letters.replay(letter.id)
    assert await streams.client.xreadgroup("worker", "dead-consumer", {RUNTIME_EVENTS: ">"})
    worker = Handler(broken=True)
    async with Consumer(streams, RUNTIME_EVENTS, "worker", worker, options=QUICK).running():

        async def nothing_pending() -> bool:
            return (await streams.client.xpending(RUNTIME_EVENTS, "worker"))["pending"] == 0

        await eventually(nothing_pending)
    assert await everything(letters) == []


async def test_an_event_that_was_handled_before_it_died_is_not_handled_again(streams, letters, database_url_for, eventually):
    """The inbox keeps its mark: it was committed with the handler's writes."""
    handled: list[str] = []

    async def handle(tx, event: Event) -> None:
        handled.append(event.id)

    async with Database.open(await database_url_for("orchestrator")) as database:
        deliver = inboxed(database, "orchestrator", handle)

        async def handle_and_fail(events: Sequence[Event]) -> None:
            await deliver(events)
            raise InvalidInput("after its commit")

        async with Consumer(streams, DEPLOYMENT_QUEUE, "orchestrator", handle_and_fail, options=QUICK).running():
            await streams.publish(DEPLOYMENT_QUEUE, [started(1)], tenant_id="t")
            (letter,) = await buried(letters, 1, eventually)
        async with Consumer(streams, DEPLOYMENT_QUEUE, "orchestrator", deliver, options=QUICK).running():
            await letters.replay(letter.id)

            async def gone() -> bool:
                return await streams.client.xlen(DEPLOYMENT_QUEUE) == 0

            await eventually(gone)
    assert handled == [letter.event.id]


async def test_all_of_a_group_are_replayed_and_one_that_dies_again_stays(streams, letters, eventually):
    handler = Handler(broken=True)
    async with Consumer(streams, LOGS_INGEST, "log", handler, options=QUICK).running():
        await streams.publish(LOGS_INGEST, [started(n) for n in range(5)], tenant_id="t")
        await buried(letters, 5, eventually)
        assert await letters.replay_all(stream="logs.ingest", group="log") == 5
        await buried(letters, 5, eventually)
        handler.broken = False
        assert await letters.replay_all(stream="", group="orchestrator") == 0
        assert await letters.replay_all(stream="", group="") == 5
        await eventually(lambda: sorted(handler.seen) == [0, 1, 2, 3, 4])
    assert await everything(letters) == []


async def test_letters_are_listed_in_pages_and_by_stream_and_group(streams, letters, eventually):
    async with (
        Consumer(streams, LOGS_INGEST, "log", Handler(broken=True), options=QUICK).running(),
        Consumer(streams, DEPLOYMENT_QUEUE, "orchestrator", Handler(broken=True), options=QUICK).running(),
    ):
        await streams.publish(LOGS_INGEST, [started(1), started(2)], tenant_id="t")
        await streams.publish(DEPLOYMENT_QUEUE, [started(3)], tenant_id="t")
        found = await buried(letters, 3, eventually)
    assert [one.stream for one in found] == ["deployment.queue", "logs.ingest", "logs.ingest"]
    paged = []
    while page := await letters.page(stream="", group="", after=paged[-1].id if paged else "", limit=1):
        paged += page
    assert [one.id for one in paged] == [one.id for one in found]
    assert len(await everything(letters, group="log")) == len(await everything(letters, stream="streams.logs.ingest")) == 2
    await letters.drop(found[0].id)
    assert await letters.drop_all(stream="logs.ingest", group="") == 2
    assert await everything(letters) == []


async def test_a_payload_is_shown_without_what_the_master_key_opens(streams, letters, eventually):
    event = events_pb2.DeploymentRequested(deployment_id=new_id(), project_name="shop")
    event.configuration.variables.ciphertext = b"sealed-ciphertext"
    event.configuration.variables.wrapped_data_key = b"sealed-key"
    event.configuration.variables.versions["API_KEY"] = 3
    async with Consumer(streams, DEPLOYMENT_QUEUE, "orchestrator", Handler(broken=True), options=QUICK).running():
        await streams.publish(DEPLOYMENT_QUEUE, [event], tenant_id="t")
        (letter,) = await buried(letters, 1, eventually)
    shown = json.loads((await letters.get(letter.id)).payload_json())
    assert shown["project_name"] == "shop"
    assert shown["configuration"]["variables"] == {"versions": {"API_KEY": "3"}}


async def test_what_is_no_event_at_all_can_be_listed_and_dropped(streams, letters, eventually):
    async with Consumer(streams, LOGS_INGEST, "log", Handler(), options=QUICK).running():
        await streams.append(LOGS_INGEST, [b"\xff\xff"])
        await streams.client.xadd(LOGS_INGEST, {"other": "fields"})
        found = await buried(letters, 2, eventually)
    assert all(one.event is None and one.payload_json() == "" for one in found)
    assert "not an event" in found[0].reason
    assert await letters.drop_all(stream="", group="") == 2


@pytest.mark.parametrize(
    "letter_id",
    ["", "x", "logs.ingest:", "logs.ingest:1-0", "nothing:1-0", "logs.ingest:1-x", "logs.ingest:" + "9" * 30 + "-0"],
)
async def test_an_unknown_letter_is_not_found(letters, letter_id: str):
    for action in (letters.get, letters.replay, letters.drop):
        with pytest.raises(NotFound):
            await action(letter_id)


async def test_an_unknown_stream_is_named_with_those_there_are(letters):
    with pytest.raises(InvalidInput) as refused:
        await everything(letters, stream="deployments")
    assert "deployment.queue" in refused.value.remedy


async def test_the_oldest_are_dropped_beyond_the_bound(streams, letters, eventually, monkeypatch):
    monkeypatch.setattr(consumers_module, "DEAD_KEPT", 3)
    async with Consumer(streams, LOGS_INGEST, "log", Handler(broken=True), options=QUICK).running():
        for attempt in range(5):
            await streams.publish(LOGS_INGEST, [started(attempt)], tenant_id="t")
            await eventually(lambda wanted=attempt: _newest(letters, wanted))
    assert [one.event.message.attempt for one in await everything(letters)] == [2, 3, 4]


async def _newest(letters: DeadLetters, attempt: int) -> bool:
    found = await everything(letters)
    return bool(found) and found[-1].event.message.attempt == attempt
