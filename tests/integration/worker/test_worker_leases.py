"""Leases on hooks: nothing is lost, and nothing is done twice but a try whose result nobody could write down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from shipoff.common.ids import new_id
from shipoff.common.postgres import Database
from shipoff.worker.adapters.postgres import PostgresStore
from shipoff.worker.dispatcher import Dispatcher
from shipoff.worker.domain import Claim, NewHook, Outcome, Removal, Transition
from shipoff.worker.transitions import Verdict

DONE = Verdict(None, "200")


@pytest.fixture
async def database(database_url_for: Callable[[str], Awaitable[str]]) -> AsyncIterator[Database]:
    async with Database.open(await database_url_for("worker")) as opened:
        yield opened


def store_of(database: Database, lease_s: float = 30.0) -> PostgresStore:
    return PostgresStore(database, lease_s=lease_s, changed=lambda: None)


async def hook(store: PostgresStore, project_id: str) -> str:
    added = await store.add(NewHook(new_id(), project_id, new_id(), "http://h.example/", b"secret"), at_most=100)
    return added.id


def transition(project_id: str, event_id: str | None = None) -> Transition:
    return Transition(
        event_id=event_id or new_id(),
        deployment_id=new_id(),
        project_id=project_id,
        project_name="app",
        environment="production",
        number=1,
        from_state="",
        to_state="queued",
        reason="",
        version=1,
        time=datetime.now(UTC),
        hosts=(),
        commit="",
    )


async def record(database: Database, store: PostgresStore, *transitions: Transition) -> None:
    async with database.transaction() as tx:
        for item in transitions:
            await store.recording(tx).add_deliveries(item)


class Receiver:
    """A Sender and Seal that remembers what was sent."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def check(self, url: str) -> None:
        return

    async def send(self, url: str, body: bytes, headers: dict[str, str]) -> Outcome:
        self.bodies.append(body)
        return Outcome(200)

    def seal(self, plain: bytes) -> bytes:
        return plain

    def open(self, sealed: bytes) -> bytes:
        return sealed


async def test_an_event_twice_makes_one_delivery_a_hook(database: Database) -> None:
    store, project = store_of(database), new_id()
    await hook(store, project)
    await hook(store, project)
    event = transition(project)
    await record(database, store, event)
    await record(database, store, event)
    assert len(await database.all(sa.text("SELECT 1 FROM deliveries"))) == 2


async def test_many_processes_share_the_work_without_doing_it_twice(database: Database) -> None:
    project = new_id()
    store = store_of(database)
    hooks = {await hook(store, project) for _ in range(20)}
    await record(database, store, transition(project), transition(project))
    claims = [claim for claimed in await asyncio.gather(*(store_of(database).claim(7) for _ in range(4))) for claim in claimed]
    claims += await store.claim(100)
    assert len(claims) == 20, "one a hook, though each has two that are due"
    assert {claim.hook_id for claim in claims} == hooks


async def test_a_crash_after_sending_sends_the_same_delivery_again(database: Database, eventually: Any) -> None:
    store, project, receiver = store_of(database, lease_s=0.2), new_id(), Receiver()
    await hook(store, project)
    await record(database, store, transition(project))
    [lost] = await store.claim(1)
    await receiver.send(lost.url, lost.body, {})
    # Here the process dies: nothing is recorded, and the lease runs out.
    wake = asyncio.Event()
    dispatcher = Dispatcher(store, receiver, receiver, wake)

    async def sent_again() -> bool:
        await dispatcher.dispatch()
        return len(receiver.bodies) == 2

    await eventually(sent_again)
    await dispatcher.drain()
    assert receiver.bodies[0] == receiver.bodies[1], "the same id in the same bytes"
    assert await store.claim(1) == []


async def test_who_lost_the_lease_records_nothing(database: Database, eventually: Any) -> None:
    store, project = store_of(database, lease_s=0.1), new_id()
    await hook(store, project)
    await record(database, store, transition(project))
    [old] = await store.claim(1)
    again: list[Claim] = []

    async def taken_over() -> bool:
        again.extend(await store.claim(1))
        return bool(again)

    await eventually(taken_over)
    assert (again[0].delivery_id, again[0].tries) == (old.delivery_id, 2)
    assert not await store.record(old, DONE)
    assert [row["finished_at"] for row in await database.all(sa.text("SELECT finished_at FROM deliveries"))] == [None]
    assert await store.record(again[0], DONE)


async def test_a_waiting_delivery_does_not_hold_up_the_next(database: Database) -> None:
    store, project = store_of(database), new_id()
    await hook(store, project)
    await record(database, store, transition(project), transition(project))
    [first] = await store.claim(1)
    await store.record(first, Verdict(3600, "500; try 1 of 8"))
    [second] = await store.claim(1)
    assert second.delivery_id != first.delivery_id
    await store.record(second, DONE)
    assert await store.claim(1) == []


async def test_finished_deliveries_are_forgotten_after_a_while(database: Database) -> None:
    store, project = store_of(database), new_id()
    await hook(store, project)
    await record(database, store, transition(project), transition(project))
    [claim] = await store.claim(1)
    await store.record(claim, DONE)
    async with database.transaction() as tx:
        await tx.execute(sa.text("UPDATE deliveries SET finished_at = now() - interval '8 days' WHERE finished_at IS NOT NULL"))
    await store.forget_finished(7)
    assert len(await database.all(sa.text("SELECT 1 FROM deliveries"))) == 1


async def test_a_removal_that_fails_is_due_again_later(database: Database) -> None:
    store = store_of(database)
    earlier, later = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    for expired_at in (earlier, later, earlier):
        async with database.transaction() as tx:
            await store.recording(tx).add_removal("artifacts/a", expired_at)
    assert await store.due_removals(10) == [Removal("artifacts/a", later, 1)]
    assert await store.due_removals(10) == []
    await store.settled("artifacts/a")
    assert await database.all(sa.text("SELECT 1 FROM removals")) == []
