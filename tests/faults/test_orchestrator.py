"""The orchestrator is killed, paused and doubled; Redis and PostgreSQL are restarted and emptied. Every accepted deployment
still ends where the state machine says, with nobody's help, and its recorded history is that of an undisturbed run."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
import sqlalchemy as sa
from neighbours import histories
from neighbours.orchestrator import Rig, surrounded
from neighbours.zygote import Zygote

from shipoff.common.ids import new_id
from shipoff.contracts.types.v1 import types_pb2

# The points are shared out, so that test processes can work side by side.
PARTS = 4
CLEAN_RUN = ["BUILDING", "PROVISIONING", "PRODUCTION"]


@pytest.fixture
async def world(shipoff_home, redis_url, database_url_for, eventually) -> AsyncIterator[tuple[Rig, Zygote]]:
    url = await database_url_for("orchestrator")
    async with AsyncExitStack() as stack:
        patient: Callable = lambda condition: eventually(condition, timeout_s=40)  # noqa: E731 - a name for the default
        rig = await surrounded(stack, redis_url=redis_url, database_url=url, eventually=patient)
        environment = {
            "SHIPOFF_ORCHESTRATOR_DATABASE_URL": url,
            "SHIPOFF_REDIS_URL": redis_url,
            "SHIPOFF_ORCHESTRATOR_LEASE_S": "1",
            "SHIPOFF_ORCHESTRATOR_SWEEP_S": "0.3",
        }
        yield rig, await stack.enter_async_context(Zygote("orchestrator", environment))


def names(deployment) -> list[str]:
    return [types_pb2.DeploymentState.Name(t.to_state).removeprefix("DEPLOYMENT_STATE_") for t in deployment.transitions]


async def check_histories(rig: Rig) -> None:
    """Every invariant over everything that was recorded, once nothing is under way any more."""

    async def violations() -> list[str]:
        recorded = await histories.recorded_deployments(rig.database)
        # The neighbours' servers keep no outbox, and what nobody has read yet is still to be acknowledged.
        recorded = replace(recorded, outbox=[row for row in recorded.outbox if row["epoch"] is None])
        found = histories.deployments_violations(recorded, at_rest=True, routes=rig.edge.told)
        return found + await histories.dead_letters(rig.streams)

    await histories.come_to_rest(violations, rig.eventually)


async def pushed_twice(rig: Rig) -> tuple[str, str]:
    """A deployment that serves and one after it; the ids."""
    project = new_id()
    first = await rig.request(project)
    await rig.until(first, "PRODUCTION")
    second = await rig.request(project)
    return first, second


@pytest.mark.parametrize("part", range(PARTS))
async def test_killed_at_every_commit_publish_acknowledgement_and_call(world, part: int):
    """Row 1: crash at point k, restart, compare with the uninterrupted run, for every k until a run needs no more points."""
    rig, orchestrators = world
    crashes = 0
    for crash_at in range(1 + part, 200, PARTS):
        process = await orchestrators.start(SHIPOFF_CRASH_AT=str(crash_at))
        process.send_signal(signal.SIGUSR1)
        deployment_id = await rig.request(new_id())
        waiting = asyncio.create_task(rig.until(deployment_id, "PRODUCTION"))
        died = asyncio.create_task(process.ended.wait())
        await asyncio.wait({waiting, died}, return_when=asyncio.FIRST_COMPLETED)
        finished_first = waiting.done()
        await process.kill()
        await died
        if not finished_first:
            crashes += 1
            process = await orchestrators.start()
        deployment = await waiting
        assert names(deployment) == CLEAN_RUN, crash_at
        assert rig.builds.started.keys() & {(deployment_id, 2)} == set(), crash_at
        assert rig.routed(deployment.project_id) == deployment_id
        await process.kill()
        if finished_first:
            break
    assert crashes >= 5
    await orchestrators.start()
    await check_histories(rig)


async def test_two_at_once_share_the_work_and_do_nothing_twice(world, shipoff_home):
    """Row 18."""
    rig, orchestrators = world
    await orchestrators.start()
    await orchestrators.start(SHIPOFF_ORCHESTRATOR_LISTEN=f"unix:{shipoff_home}/run/grpc/orchestrator-2.sock")
    ids = [await rig.request(new_id()) for _ in range(30)]
    for deployment_id in ids:
        assert names(await rig.until(deployment_id, "PRODUCTION")) == CLEAN_RUN
    assert sorted(rig.workloads.applied) == sorted(set(rig.workloads.applied))
    await check_histories(rig)


async def test_one_that_is_paused_past_its_lease_changes_nothing_when_it_resumes(world, shipoff_home):
    """Row 13."""
    rig, orchestrators = world
    paused = await orchestrators.start()
    ids = [await rig.request(new_id()) for _ in range(10)]
    await rig.eventually(lambda: len(rig.builds.started) >= 1)
    paused.send_signal(signal.SIGSTOP)
    await orchestrators.start(SHIPOFF_ORCHESTRATOR_LISTEN=f"unix:{shipoff_home}/run/grpc/orchestrator-2.sock")

    async def all_serving() -> bool:
        rows = await rig.database.all(sa.text("SELECT 1 FROM deployments WHERE state = 'production'"))
        return len(rows) == len(ids)

    try:
        # What the paused one read and did not acknowledge is reclaimed after 30 s; everything else at once.
        await asyncio.wait_for(rig.eventually(all_serving), 60)
    finally:
        paused.send_signal(signal.SIGCONT)
    for deployment_id in ids:
        assert names(await rig.until(deployment_id, "PRODUCTION")) == CLEAN_RUN
    await check_histories(rig)


async def test_redis_restarts(world, backing):
    """Row 7."""
    rig, orchestrators = world
    await orchestrators.start()
    rig.builds.automatic = False
    before = await rig.request(new_id())
    await rig.until(before, "BUILDING")
    await backing.valkey.stop()
    await backing.valkey.start()
    after = await rig.request(new_id())
    for deployment_id in (before, after):
        await rig.eventually(lambda wanted=deployment_id: (wanted, 1) in rig.builds.started)
        await rig.builds.succeed(deployment_id)
        assert names(await rig.until(deployment_id, "PRODUCTION")) == CLEAN_RUN
    await check_histories(rig)


async def test_postgresql_restarts_in_mid_transaction(world, backing):
    """Row 16."""
    rig, orchestrators = world
    await orchestrators.start()
    ids = [await rig.request(new_id()) for _ in range(20)]
    await rig.eventually(lambda: len(rig.builds.started) >= 3)
    await backing.postgres.stop()
    await backing.postgres.start()
    for deployment_id in ids:
        assert names(await rig.until(deployment_id, "PRODUCTION")) == CLEAN_RUN
    await check_histories(rig)


async def test_everything_in_redis_is_lost_in_mid_run(world):
    """Row 8: what the neighbours had published is theirs to publish again; the sweep asks for what got lost."""
    rig, orchestrators = world
    await orchestrators.start()
    rig.builds.automatic = False
    first = await rig.request(new_id())
    await rig.until(first, "BUILDING")
    await rig.eventually(lambda: (first, 1) in rig.builds.started)
    await rig.streams.client.flushall()
    await rig.builds.succeed(first)
    assert names(await rig.until(first, "PRODUCTION")) == CLEAN_RUN
    second = await rig.request(new_id())
    await rig.until(second, "BUILDING")
    await check_histories_after_success(rig, second)


async def check_histories_after_success(rig: Rig, deployment_id: str) -> None:
    """Lets the last build end, then checks."""
    await rig.eventually(lambda: (deployment_id, 1) in rig.builds.started)
    await rig.builds.succeed(deployment_id)
    await rig.until(deployment_id, "PRODUCTION")
    await check_histories(rig)


async def test_killed_between_the_switch_of_the_route_and_its_record(world):
    """Row 4: the old one's route is not lost and the new one is recorded once somebody looks again."""
    rig, orchestrators = world
    process = await orchestrators.start()
    project = new_id()
    first = await rig.request(project)
    await rig.until(first, "PRODUCTION")
    switched = asyncio.Event()

    def kill(_: str) -> None:
        if not switched.is_set():
            switched.set()
            process.send_signal(signal.SIGKILL)

    rig.edge.after_switch = kill
    second = await rig.request(project)
    await asyncio.wait_for(switched.wait(), 30)
    await process.ended.wait()
    assert rig.routed(project) == second
    assert rig.workloads.stopped == []
    await orchestrators.start()
    assert names(await rig.until(second, "PRODUCTION")) == CLEAN_RUN
    await rig.until(first, "INACTIVE")
    await check_histories(rig)
