"""Many events at once: one transaction for all of them, the outcome of one after the other, and no crosswise waiting."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
import sqlalchemy as sa
from neighbours.orchestrator import CLEAN_RUN, TEAM, check_histories, names, surrounded

from shipoff.common.ids import new_id
from shipoff.common.outbox import Outbox
from shipoff.common.postgres import Database
from shipoff.common.streams import DEPLOYMENT_PROGRESS, DEPLOYMENT_QUEUE, RUNTIME_EVENTS, Streams, decode
from shipoff.common.telemetry import Context, new_traceparent, working_on
from shipoff.contracts.events.v1 import events_pb2
from shipoff.orchestrator import handlers
from shipoff.orchestrator.adapters.postgres import PostgresStore
from shipoff.orchestrator.adapters.work import Limits, Wakes
from shipoff.orchestrator.domain import (
    BuildSucceeded,
    DeadlinePassed,
    EndpointsReady,
    Resources,
    RouteSwitched,
    SlotGranted,
    State,
)
from shipoff.orchestrator.main import running
from shipoff.orchestrator.records import NewDeployment
from shipoff.orchestrator.settings import OrchestratorSettings


@pytest.fixture
async def waiting(shipoff_home, redis_url, database_url_for, eventually):
    """The neighbours, and how to start the orchestrator once its events wait for it."""
    url = await database_url_for("orchestrator")
    settings = OrchestratorSettings(
        database_url=url,
        SHIPOFF_REDIS_URL=redis_url,
        sweep_s=0.2,
        lease_s=1.0,
        budget_cpu_millis=64_000,
        budget_memory_bytes=256 << 30,
    )
    async with AsyncExitStack() as stack:
        patient = partial(eventually, timeout_s=40)
        rig = await surrounded(stack, redis_url=redis_url, database_url=url, eventually=patient)
        yield rig, lambda: stack.enter_async_context(running(settings))


@pytest.fixture
async def store(redis_url, database_url_for):
    """The stored deployments alone, with nobody at work on them."""
    settings = OrchestratorSettings(budget_cpu_millis=64_000, budget_memory_bytes=256 << 30)
    async with Database.open(await database_url_for("orchestrator")) as database, Streams.open(redis_url) as streams:
        outbox = Outbox(database, streams, producing=[DEPLOYMENT_PROGRESS])
        limits, wakes = Limits(60, 60, 60, 60), Wakes(*[lambda: None] * 3, room=lambda: 0, lease_s=1, take=lambda held: None)
        made = PostgresStore(database, outbox, terms=settings.terms, limits=limits, wakes=wakes)
        await made.set_budget(settings.budget)
        yield made, database


def new(project_id: str, second: int = 0) -> NewDeployment:
    return NewDeployment(
        id=new_id(), project_id=project_id, project_name="shop", team_id=TEAM, environment="production", request=b"", branch="",
        commit="", commit_message="", trigger=1, requested_by="ada", accepted_at=datetime.now(UTC) + timedelta(seconds=second),
    )  # fmt: skip


async def test_requests_of_many_projects_that_waited_together_end_as_if_they_had_come_one_by_one(waiting):
    rig, start = waiting
    shop, moment = new_id(), datetime.now(UTC)
    # The newest is neither the first nor the last of its batch.
    ages = (5, 1, 9, 3)
    of_shop = {age: await rig.request(shop, accepted_at=moment + timedelta(seconds=age), times=2) for age in ages}
    others = [await rig.request(new_id()) for _ in range(20)]
    await start()
    for deployment_id in [of_shop[9], *others]:
        assert names(await rig.until(deployment_id, "PRODUCTION")) == CLEAN_RUN
    for age in (5, 1, 3):
        outdated = await rig.until(of_shop[age], "INACTIVE")
        assert outdated.reason == "superseded by #3"
        assert names(outdated) == ["INACTIVE"]
    numbers = [(await rig.find(of_shop[age])).number for age in ages]
    assert numbers == [1, 2, 3, 4], "in the order of the stream"
    await check_histories(rig)


async def test_one_event_that_makes_no_sense_keeps_none_of_its_batch_back(waiting):
    rig, start = waiting
    good = [await rig.request(new_id()) for _ in range(3)]
    # Text that no database of ours takes.
    facts = {"deployment_id": new_id(), "project_id": new_id(), "team_id": TEAM, "environment": "production"}
    poison = events_pb2.DeploymentRequested(**facts, project_name="shop\0")
    await rig.streams.publish(DEPLOYMENT_QUEUE, [poison], tenant_id=TEAM)
    good += [await rig.request(new_id()) for _ in range(3)]
    await start()
    for deployment_id in good:
        await rig.until(deployment_id, "PRODUCTION")

    async def buried() -> bool:
        return await rig.streams.client.xlen(f"{DEPLOYMENT_QUEUE}.dead") == 1

    await rig.eventually(buried)


async def test_several_events_of_one_deployment_in_a_batch_are_applied_in_their_order(waiting):
    rig, start = waiting
    rig.workloads.automatic = False
    deployment_id = await rig.request(new_id())
    # Before it is stored: of nothing that is known, and passed over.
    await rig.workloads.ready(deployment_id, 9)
    await start()
    await rig.eventually(lambda: deployment_id in rig.workloads.applied)
    ready = [
        events_pb2.WorkloadReady(
            deployment_id=deployment_id, revision=revision, endpoints=[{"host": "127.0.0.1", "port": port}]
        )
        for revision, port in ((1, 4001), (3, 4003), (2, 4002))
    ]
    await rig.streams.publish(RUNTIME_EVENTS, ready, tenant_id=TEAM)
    found = await rig.until(deployment_id, "PRODUCTION")
    assert names(found) == CLEAN_RUN
    await rig.eventually(lambda: rig.edge.routes[found.project_id, "production"].proxy.endpoints[0].port == 4003)
    await check_histories(rig)


async def test_one_transaction_takes_a_release_out_of_production_and_puts_two_in_one_after_the_other(store):
    """Of the statement that writes a place's deployments, what leaves it makes way for what comes."""
    store, database = store
    project = new_id()
    deployments = [new(project, second) for second in range(3)]
    for one in deployments:
        async with store.begin() as work:
            await handlers.accept(work, one)
            granted = await handlers.apply_by_id(work, one.id, SlotGranted(Resources(1, 1)))
            assert granted is not None
            await handlers.apply_by_id(work, one.id, BuildSucceeded(1, b"\n\x01a", b"", static=False))
            await handlers.apply_by_id(work, one.id, EndpointsReady(1, ()))
    for together in (deployments[:1], deployments[1:]):
        async with store.begin() as work:
            for one in together:
                await handlers.apply_by_id(work, one.id, RouteSwitched(1))
    states = [(await store.record(one.id)).deployment.state for one in deployments]
    assert states == [State.INACTIVE, State.INACTIVE, State.PRODUCTION]
    steps = await database.all(sa.text("SELECT count(*) AS n FROM transitions"))
    assert steps[0]["n"] == 3 * 3 + 2


async def test_two_transactions_that_lock_the_same_in_another_order_wait_for_each_other(store):
    """In one order of ids, whatever they were asked for: neither is ended by the database for standing crosswise."""
    store, _ = store
    deployments = [new(new_id()) for _ in range(8)]
    async with store.begin() as work:
        for one in deployments:
            await handlers.accept(work, one)
    ids = [one.id for one in deployments]

    async def touch(order: list[str]) -> None:
        for _ in range(20):
            async with store.begin() as work:
                await work.prepare(order)
                assert await work.locked(order[0])

    await asyncio.wait_for(asyncio.gather(touch(ids), touch(ids[::-1]), touch(ids[4:] + ids[:4])), 60)


async def test_what_a_batch_gives_back_of_the_budget_is_there_for_what_it_takes(store):
    store, database = store
    deployments = [new(new_id()) for _ in range(4)]
    async with store.begin() as work:
        await work.prepare(new=deployments)
        for one in deployments:
            await handlers.accept(work, one)
    await handlers.admit(store, store._terms)
    async with store.begin() as work:
        await work.prepare([one.id for one in deployments])
        for one in deployments[:2]:
            await handlers.apply_by_id(work, one.id, BuildSucceeded(1, b"\n\x01a", b"", static=False))
        for one in deployments[2:]:
            await handlers.remove_project(work, one.project_id, "ada")
    sums = await database.one_or_none(
        sa.text(
            "SELECT memory_bytes_reserved AS reserved, memory_bytes_lasting AS lasting,"
            " (SELECT sum(memory_bytes) FROM reservations) AS held, (SELECT count(*) FROM reservations) AS holders FROM budget"
        )
    )
    app = store._terms.instance.memory_bytes
    assert (sums["reserved"], sums["lasting"], sums["held"], sums["holders"]) == (2 * app, 2 * app, 2 * app, 2)


async def test_what_nobody_asked_for_is_told_under_the_deployments_own_ids(store):
    """A slot, a deadline: in one transaction, each under the ids its deployment was accepted with. A cancel has its own."""
    store, database = store
    ids = [Context(request_id=f"r-{n}", tenant_id=TEAM, traceparent=new_traceparent()) for n in range(3)]
    deployments = [replace(new(new_id()), context=one) for one in ids]
    async with store.begin() as work:
        await work.prepare(new=deployments)
        for one in deployments:
            await handlers.accept(work, one)
    await handlers.admit(store, store._terms)
    async with store.begin() as work:
        for one in deployments[:2]:
            await handlers.apply_by_id(work, one.id, DeadlinePassed(1.0))
    canceller = Context(request_id="the canceller", tenant_id=TEAM, traceparent=new_traceparent())
    with working_on(canceller):
        await handlers.cancel(store, deployments[2].id, "ada")
    rows = await database.all(sa.text("SELECT envelope FROM outbox"))
    told = Counter((event.message.deployment_id, event.context) for event in (decode(row["envelope"]) for row in rows))
    twice = {(one.id, one.context): 2 for one in deployments[:2]}
    assert told == twice | {(deployments[2].id, ids[2]): 1, (deployments[2].id, canceller): 1}
    held = await store.claim(limit=10, lease_s=1)
    assert {one.record.deployment.context for one in held} == set(ids)


async def states_of(database: Database) -> dict[str, str]:
    rows = await database.all(sa.text("SELECT id, state FROM deployments"))
    return {str(row["id"]): row["state"] for row in rows}


async def accept_and_admit(store: PostgresStore, one: NewDeployment) -> None:
    async with store.begin() as work:
        with working_on(one.context):
            await handlers.accept(work, one)
        await handlers.admit_accepted(work, store._terms)


async def test_what_finds_a_slot_free_is_let_in_by_the_transaction_that_accepts_it(store):
    store, database = store
    one = replace(new(new_id()), context=Context(request_id="r-1", tenant_id=TEAM, traceparent=new_traceparent()))
    await accept_and_admit(store, one)
    assert await states_of(database) == {one.id: "building"}
    stored = await database.all(sa.text("SELECT xmin FROM deployments UNION SELECT xmin FROM transitions"))
    assert len(stored) == 1, "one commit"
    sums = await database.one_or_none(
        sa.text("SELECT memory_bytes_reserved AS sum, (SELECT memory_bytes FROM reservations) AS held FROM budget")
    )
    assert sums is not None
    assert sums["sum"] == sums["held"] > 0
    (told,) = await database.all(sa.text("SELECT envelope FROM outbox"))
    assert decode(told["envelope"]).context == one.context


async def test_somebody_who_waited_longer_is_let_in_by_it_under_ids_of_its_own(store):
    store, database = store
    ids = [Context(request_id=f"r-{n}", tenant_id=TEAM, traceparent=new_traceparent()) for n in range(2)]
    waiting, accepted = (replace(new(new_id()), context=one) for one in ids)
    async with store.begin() as work:
        await handlers.accept(work, waiting)
    await accept_and_admit(store, accepted)
    assert set((await states_of(database)).values()) == {"building"}
    told = [decode(row["envelope"]) for row in await database.all(sa.text("SELECT envelope FROM outbox"))]
    assert {(one.message.deployment_id, one.context) for one in told} == {(waiting.id, ids[0]), (accepted.id, ids[1])}


async def test_nobody_who_is_accepted_waits_for_whoever_holds_the_budget(store):
    store, database = store
    woken: list[bool] = []
    store._wakes = replace(store._wakes, admission=lambda: woken.append(True))
    one, other = new(new_id()), new(new_id())
    async with database.transaction() as tx:
        await tx.execute(sa.text("SELECT 1 FROM budget FOR UPDATE"))
        await accept_and_admit(store, one)
        assert await states_of(database) == {one.id: "queued"}
        assert woken == [True], "its turn comes after the commit"
    await accept_and_admit(store, other)
    assert set((await states_of(database)).values()) == {"building"}
    assert woken == [True], "everybody was looked at"
