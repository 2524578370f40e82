"""The orchestrator is killed, paused and doubled; PostgreSQL is restarted. Every accepted deployment
still ends where the state machine says, with nobody's help, and its recorded history is that of an undisturbed run."""

from __future__ import annotations

import asyncio
import signal

import pytest
import sqlalchemy as sa
from neighbours.orchestrator import CLEAN_RUN, check_histories, names

from shipoff.common.ids import new_id

# The points are shared out, so that test processes can work side by side.
PARTS = 4


# Some twenty starts and deployments one after the other: a busy machine takes long for them.
@pytest.mark.timeout(600)
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
