"""Builds that eat the machine or refuse to end, through a real orchestrator, build service and builder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import sqlalchemy as sa
from neighbours.build import Yard, build_yard, marked, plan_of
from neighbours.orchestrator import Rig, surrounded

from shipoff.common.ids import new_id
from shipoff.common.streams import DEPLOYMENT_QUEUE
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.orchestrator.v1 import orchestrator_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.orchestrator.main import running
from shipoff.orchestrator.settings import OrchestratorSettings

MIB = 1 << 20


@dataclass
class Way:
    """The whole way: the orchestrator beside a real build service; runtime and edge are neighbours'."""

    rig: Rig
    yard: Yard

    async def deploy(self, *commands: str) -> str:
        """A deployment of a source that runs these commands; its id."""
        event = events_pb2.DeploymentRequested(
            deployment_id=new_id(),
            project_id=new_id(),
            project_name="shop",
            hosts=["shop.localhost"],
            team_id=self.yard.team_id,
            environment="production",
            trigger=types_pb2.TRIGGER_UPLOAD,
            source=await self.yard.source({"app.json": plan_of(*commands)}),
        )
        event.requested_at.GetCurrentTime()
        for attempt in (1, 2):
            self.yard.started.add(f"{event.deployment_id}/{attempt}")
        await self.rig.streams.publish(DEPLOYMENT_QUEUE, [event], tenant_id=event.team_id)
        return event.deployment_id

    async def reserved(self) -> int:
        """Memory."""
        row = await self.rig.database.one_or_none(sa.text("SELECT memory_bytes_reserved AS m FROM budget"))
        return int(row["m"])


@pytest.fixture
async def way(backing, redis_url, database_url_for, eventually) -> AsyncIterator[Way]:
    """Room for one build at a time, and for a second try with twice as much."""
    url, build_url = await database_url_for("orchestrator"), await database_url_for("build")

    async def patiently(condition):
        return await eventually(condition, timeout_s=60)

    async with AsyncExitStack() as stack:
        rig = await surrounded(stack, redis_url=redis_url, database_url=url, eventually=patiently, without=("build",))
        yard = await stack.enter_async_context(
            build_yard(backing.home, database_url=build_url, redis_url=redis_url, objects_url=backing.objects_url, processes=30)
        )
        sizes = {"budget_memory_bytes": 300 * MIB, "build_memory_bytes": 160 * MIB, "build_least_memory_bytes": 160 * MIB}
        settings = OrchestratorSettings(
            database_url=url, SHIPOFF_REDIS_URL=redis_url, sweep_s=0.3, app_memory_bytes=16 * MIB, **sizes
        )
        await stack.enter_async_context(running(settings))
        yield Way(rig, yard)


async def test_a_build_that_eats_memory_is_tried_with_more_then_fails_with_both_peaks(way: Way):
    deployment = await way.deploy("python3 -c 'x = bytearray(700 << 20); import time; time.sleep(600)'")
    failed = await way.rig.until(deployment, "FAILED")
    assert failed.reason.startswith("build was killed at ")
    assert "tried again with 300 MiB, where build was killed at " in failed.reason
    assert "▸ build was killed at " in await way.yard.text(deployment)
    await way.rig.eventually(lambda: not marked(deployment))
    assert await way.reserved() == 0
    # The platform lives.
    await way.rig.until(await way.deploy("echo fine"), "PRODUCTION")


async def test_a_build_that_needed_more_succeeds_the_second_time(way: Way):
    command = "python3 -c 'x = bytearray(200 << 20); import time; time.sleep(1)'"
    deployment = await way.rig.until(await way.deploy(command), "PRODUCTION")
    assert "tried again with 300 MiB" in deployment.transitions[1].reason


async def test_a_build_that_forks_without_end_fails_with_that_reason(way: Way):
    deployment = await way.deploy("f() { f & f & wait; }; f")
    failed = await way.rig.until(deployment, "FAILED")
    assert "30 processes" in failed.reason
    await way.rig.eventually(lambda: not marked(deployment))
    await way.rig.until(await way.deploy("echo fine"), "PRODUCTION")


async def test_a_cancel_ends_a_build_that_ignores_signals_with_its_children_and_the_next_one_starts(way: Way):
    stubborn = (
        "trap '' TERM INT HUP; (trap '' TERM; setsid sleep 600 & sleep 600) & echo stubborn; while true; do sleep 1; done"
    )
    first = await way.deploy(stubborn)

    async def stands() -> bool:
        return "stubborn" in await way.yard.text(first)

    await way.rig.eventually(stands)
    second = await way.deploy("echo next")
    await way.rig.until(second, "QUEUED")
    await way.rig.stub.CancelDeployment(orchestrator_pb2.CancelDeploymentRequest(deployment_id=first, cancelled_by="ada"))

    async def ended() -> bool:
        return not marked(first) and not [one for one in way.yard.builders() if first in one.cmdline()[-1]]

    # Five seconds, and what a busy machine adds.
    async with asyncio.timeout(8):
        await way.rig.eventually(ended)
    await way.rig.until(second, "PRODUCTION")
