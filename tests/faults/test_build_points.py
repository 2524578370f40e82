"""The build service is killed at every commit and publish of a build; the build ends as an undisturbed one does, once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial

import pytest
from neighbours import histories
from neighbours.build import MASTER_KEY, Yard, build_yard, marked, plan_of
from neighbours.zygote import Zygote

from shipoff.common.errors import ShipoffError
from shipoff.common.postgres import Database
from shipoff.contracts.events.v1 import events_pb2

# A build crosses about sixty points. A run of the suite takes every third; SHIPOFF_TEST_POINTS_APART=1 takes all.
APART = int(os.environ.get("SHIPOFF_TEST_POINTS_APART", "3"))
# By then the builder has been started and let go.
LAUNCHED = 6
LINES = ["one", "two", "three"]


@pytest.fixture
async def yard(backing, redis_url, database_url_for) -> AsyncIterator[tuple[Yard, Zygote]]:
    """A yard whose service is a process of its own, to be started."""
    url = await database_url_for("build")
    async with build_yard(
        backing.home, database_url=url, redis_url=redis_url, objects_url=backing.objects_url, lease_s=5
    ) as made:
        await made.down()
        environment = {
            "SHIPOFF_BUILD_DATABASE_URL": url,
            "SHIPOFF_REDIS_URL": redis_url,
            "SHIPOFF_OBJECTS_URL": backing.objects_url,
            "SHIPOFF_MASTER_KEY": MASTER_KEY,
            "SHIPOFF_BUILD_LEASE_S": "5",
        }
        async with Zygote("build", environment) as zygote:
            yield made, zygote


async def asked_until_answered(yard: Yard, request) -> None:
    """StartBuild as the orchestrator calls it: the same again while nobody answers."""
    while True:
        with suppress(ShipoffError):
            return await yard.send(request)
        await asyncio.sleep(0.05)


async def violations(yard: Yard) -> list[str]:
    async with Database.open(yard.settings.database_url) as database:
        outcomes = await yard.outcomes()
        recorded = await histories.recorded_builds(database, outcomes)
    found = histories.builds_violations(recorded, at_rest=True) + await histories.dead_letters(yard.streams)
    return found + [f"left over: {one}" for one in yard.leftovers()] + [f"runs: {one}" for one in yard.builders()]


async def lost(yard: Yard, deployment: str) -> bool:
    """Whether the first attempt ended as a loss, which the orchestrator answers with a second one."""
    results = await yard.results(deployment)
    failures = [one for one in results if isinstance(one, events_pb2.BuildFailed)]
    assert [one.failure for one in failures] in ([], [events_pb2.BUILD_FAILURE_BUILDER_LOST])
    return bool(failures)


async def as_undisturbed(yard: Yard, deployment: str) -> bool:
    """One success, each line of it once, and nothing left. Fails with what is not so yet."""
    succeeded = [one for one in await yard.results(deployment) if isinstance(one, events_pb2.BuildSucceeded)]
    assert len(succeeded) == 1
    lines = {(line.sequence, line.text) for line in await yard.lines(deployment) if line.channel}
    assert [text for _, text in sorted(lines)] == LINES
    assert not marked(deployment)
    found = await violations(yard)
    assert found == [], found
    return True


async def a_build_with_a_crash(yard: Yard, zygote: Zygote, crash_at: int, eventually) -> tuple[bool, bool]:
    """Whether the service came so far that it crashed, and whether the first attempt was lost by that."""
    child = await zygote.start(SHIPOFF_CRASH_AT=str(crash_at))
    source = await yard.source({"app.json": plan_of(*(f"echo {line}" for line in LINES))})
    request = await yard.request(source)
    child.send_signal(signal.SIGUSR1)
    asking = asyncio.create_task(asked_until_answered(yard, request))

    async def crashed_or_done() -> bool:
        return child.ended.is_set() or await as_undisturbed(yard, request.deployment_id)

    async def lost_or_done() -> bool:
        return await lost(yard, request.deployment_id) or await as_undisturbed(yard, request.deployment_id)

    await eventually(crashed_or_done, timeout_s=60)
    crashed = child.ended.is_set()
    if crashed:
        child = await zygote.start()
    await asking
    await eventually(lost_or_done, timeout_s=60)
    if first_lost := await lost(yard, request.deployment_id):
        await yard.start(source, deployment_id=request.deployment_id, attempt=2)
        await eventually(partial(as_undisturbed, yard, request.deployment_id), timeout_s=60)
    await child.kill()
    return crashed, first_lost


@pytest.mark.timeout(600)
async def test_killed_at_every_commit_and_publish_of_a_build(yard, eventually):
    """Row 2, and the enumerated points of build: crash at point k, restart, compare, until a run needs no more points."""
    site, zygote = yard
    crashes, losses = [], []
    for crash_at in range(1, 200, APART):
        crashed, first_lost = await a_build_with_a_crash(site, zygote, crash_at, eventually)
        if not crashed:
            break
        crashes.append(crash_at)
        losses += [crash_at] if first_lost else []
    assert crashes[-1] >= 20, "a build crosses more points than that: the test tests nothing"
    # Only a builder that was not let go yet dies with the service; every other one goes on.
    assert all(crash_at <= LAUNCHED for crash_at in losses), losses
