"""Row 31: whoever watches a build leaves in mid-stream, politely or not. What was done for them ends, and the build goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
from neighbours import gateway as gateways
from neighbours.orchestrator import CLEAN_RUN, Rig, check_histories, names, surrounded

from shipoff.common.config import address
from shipoff.common.ids import new_id
from shipoff.common.streams import LOGS_INGEST
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.log import main as log
from shipoff.log.hub import Hub
from shipoff.log.settings import LogSettings
from shipoff.orchestrator import main as orchestrator
from shipoff.orchestrator.settings import OrchestratorSettings


@pytest.fixture
async def hub(monkeypatch) -> Hub:
    """The log service's own, to look into."""
    made = Hub(buffer_lines=10_000)
    monkeypatch.setattr(log, "Hub", lambda **_: made)
    return made


@pytest.fixture
async def platform(shipoff_home, redis_url, database_url_for, eventually, hub) -> AsyncIterator[tuple[Rig, gateways.Rig]]:
    """A real orchestrator, log service and gateway in one process, so that every task of theirs is seen."""
    folder = shipoff_home / new_id()[-8:]
    folder.mkdir()
    # The gateway looks for them in its own folder.
    for service in ("orchestrator", "log"):
        (folder / f"{service}.sock").symlink_to(address(service).removeprefix("unix:"))
    urls = {service: await database_url_for(service) for service in ("orchestrator", "log")}
    async with AsyncExitStack() as stack:
        patient = partial(eventually, timeout_s=40)
        rig = await surrounded(stack, redis_url=redis_url, database_url=urls["orchestrator"], eventually=patient)
        settings = OrchestratorSettings(database_url=urls["orchestrator"], SHIPOFF_REDIS_URL=redis_url, sweep_s=0.3, lease_s=1)
        await stack.enter_async_context(orchestrator.running(settings))
        await stack.enter_async_context(log.running(LogSettings(database_url=urls["log"], SHIPOFF_REDIS_URL=redis_url)))
        yield rig, await stack.enter_async_context(gateways.a_gateway(folder, without=("orchestrator", "log")))


def working_for_viewers() -> list[str]:
    """The tasks that are there because somebody watches."""
    running = [str(task.get_coro()) for task in asyncio.all_tasks()]
    return [one for one in running if any(name in one for name in ("Stream.", "stream_logs", "FollowLogs", "WatchDeployment"))]


async def said(rig: Rig, deployment_id: str, count: int) -> None:
    """The build writes."""
    lines = [types_pb2.LogLine(sequence=n + 1, text="x" * 500, channel="stdout") for n in range(count)]
    for line in lines:
        line.time.GetCurrentTime()
    facts = {"stream_id": f"{deployment_id}/build/1", "deployment_id": deployment_id, "project_id": new_id(), "team_id": "t"}
    batch = events_pb2.LogBatch(**facts, source=types_pb2.LOG_SOURCE_BUILD, lines=lines)
    await rig.streams.publish(LOGS_INGEST, [batch], tenant_id="t")


async def until_lines(viewer: Any) -> None:
    while json.loads(await asyncio.wait_for(viewer.recv(), 20))["type"] != "lines":
        pass


async def test_a_viewer_who_leaves_takes_along_what_was_done_for_them_and_the_build_goes_on(platform, hub):
    rig, gateway = platform
    rig.builds.automatic = False
    deployment_id = await rig.request(new_id(), team=gateway.world.team_id)
    await rig.eventually(lambda: (deployment_id, 1) in rig.builds.started)
    path = f"/v1/deployments/{deployment_id}/logs"
    viewers = [await gateway.follow(path, token=gateway.viewer) for _ in range(3)]
    await said(rig, deployment_id, 2000)
    for viewer in viewers:
        await until_lines(viewer)
    assert hub.followed() == [deployment_id]
    assert working_for_viewers()
    polite, gone, deaf = viewers
    deaf.transport.pause_reading()
    await polite.close()
    gone.transport.abort()
    deaf.transport.abort()
    await rig.eventually(lambda: hub.followed() == [])
    await rig.eventually(lambda: working_for_viewers() == [])
    assert rig.builds.cancelled == []
    await rig.builds.succeed(deployment_id)
    assert names(await rig.until(deployment_id, "PRODUCTION")) == CLEAN_RUN
    await check_histories(rig)
