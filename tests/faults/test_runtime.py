"""The runtime is killed, at any point and at the worst ones; apps go on serving, nothing runs twice, nothing is left over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import psutil
import pytest
from neighbours import histories
from neighbours.runtime import Ground, Runtime, events_of, fresh_ground, http, marked
from neighbours.zygote import Child, Zygote

from shipoff.common.errors import ShipoffError, Unavailable
from shipoff.common.postgres import Database
from shipoff.common.streams import RUNTIME_EVENTS
from shipoff.contracts.events.v1.events_pb2 import WorkloadEndpointsChanged, WorkloadReady, WorkloadStopped
from shipoff.contracts.runtime.v1 import runtime_pb2
from shipoff.contracts.types.v1 import types_pb2

READY = runtime_pb2.WORKLOAD_PHASE_READY
STOPPED = runtime_pb2.WORKLOAD_PHASE_STOPPED


@pytest.fixture
async def ground(backing, redis_url, database_url_for) -> AsyncIterator[Ground]:
    """Stores and a folder for one test, in which runtimes can be started one after the other."""
    url = await database_url_for("runtime")
    async with fresh_ground(backing.home, database_url=url, redis_url=redis_url, objects_url=backing.objects_url) as made:
        yield made


async def _ready(runtime: Runtime, deployment: str) -> bool:
    return (await runtime.get(deployment)).phase == READY


async def _answers(port: int) -> bool:
    try:
        return bool(await http(port))
    except OSError:
        return False


async def test_apps_serve_on_while_the_runtime_is_dead_and_are_adopted_by_the_next(ground: Ground, eventually):
    async with ground.client() as runtime:
        async with ground.process() as service:
            deployment = await runtime.apply("serve", run=types_pb2.RunSettings(replicas=2))
            (ready,) = await eventually(lambda: runtime.events(deployment, WorkloadReady))
            before = runtime.pids(deployment)
            service.kill()
            await service.wait()
        for endpoint in ready.endpoints:
            assert await http(endpoint.port)
        assert runtime.pids(deployment) == before
        async with ground.process():
            await eventually(lambda: _ready(runtime, deployment))
            assert runtime.pids(deployment) == before
            # It is watched over again: what dies comes back, what is to go goes.
            os.kill(min(before), signal.SIGKILL)
            await eventually(lambda: len(runtime.pids(deployment)) == 2 and runtime.pids(deployment) != before)
            await runtime.stop(deployment)
            await eventually(lambda: runtime.events(deployment, WorkloadStopped))
        assert not runtime.pids(deployment)


async def test_an_app_that_died_while_the_runtime_was_dead_comes_back_where_it_was(ground: Ground, eventually):
    async with ground.client() as runtime:
        async with ground.process() as service:
            deployment = await runtime.apply("family")
            (ready,) = await eventually(lambda: runtime.events(deployment, WorkloadReady))
            service.kill()
            await service.wait()
        orphans = runtime.pids(deployment)
        leader = next(pid for pid in orphans if "family" in psutil.Process(pid).cmdline())
        os.kill(leader, signal.SIGKILL)
        async with ground.process():
            await eventually(lambda: _answers(ready.endpoints[0].port))
            await eventually(lambda: not orphans & runtime.pids(deployment))
            assert await runtime.events(deployment, WorkloadEndpointsChanged) == []


async def test_lines_written_while_the_runtime_is_killed_arrive_once_each(ground: Ground, eventually):
    async with ground.client() as runtime:
        async with ground.process() as service:
            deployment = await runtime.apply("serve")
            (ready,) = await eventually(lambda: runtime.events(deployment, WorkloadReady))
            port = ready.endpoints[0].port
            await http(port, "/say/first/20000")
            await eventually(lambda: _lines(runtime, deployment, 2000))
            service.kill()
            await service.wait()
        await http(port, "/say/second/5000")
        async with ground.process():
            await eventually(lambda: _lines(runtime, deployment, 25001), timeout_s=20)
        texts = await _numbered(runtime, deployment)
        expected = [f"listening on {port}", *(f"first {n}" for n in range(20000)), *(f"second {n}" for n in range(5000))]
        assert [texts[number] for number in sorted(texts)] == expected
        assert sorted(texts) == list(range(1, len(texts) + 1))


async def _numbered(runtime: Runtime, deployment: str) -> dict[int, str]:
    """Sequence → text; a repeat has to be the same line."""
    texts: dict[int, str] = {}
    for stream_id, sequence, _, text in await runtime.lines(deployment):
        assert stream_id == f"{deployment}/app/0/1"
        assert texts.setdefault(sequence, text) == text
    return texts


async def _lines(runtime: Runtime, deployment: str, least: int) -> bool:
    return len(await _numbered(runtime, deployment)) >= least


# A life from the wish to the end crosses about a hundred points. A run of the suite takes every ninth of them;
# SHIPOFF_TEST_POINTS_APART=1 takes all.
APART = int(os.environ.get("SHIPOFF_TEST_POINTS_APART", "9"))


async def _a_life(runtime: Runtime, deployment: str, doomed: Child, eventually) -> None:
    """Applied, scaled, stopped; each once the step before has come about, or the runtime has died."""
    try:
        await runtime.apply("family", deployment_id=deployment)
        await eventually(lambda: doomed.ended.is_set() or _ready(runtime, deployment), timeout_s=60)
        await runtime.scale(deployment, 2)
        await eventually(lambda: doomed.ended.is_set() or _told_of(runtime, deployment, 2), timeout_s=60)
        await runtime.stop(deployment)
        await eventually(lambda: doomed.ended.is_set() or _stopped(runtime, deployment), timeout_s=60)
    except ShipoffError:
        await asyncio.wait_for(doomed.ended.wait(), 20)


async def _answered(call: Callable[[], Awaitable[Any]]) -> bool:
    """Whether it was: a channel that was cut takes a moment to connect again."""
    with contextlib.suppress(Unavailable):
        await call()
        return True
    return False


async def _violations(ground: Ground, runtime: Runtime) -> list[str]:
    told = [event for event in await events_of(runtime.streams, RUNTIME_EVENTS) if hasattr(event, "deployment_id")]
    async with Database.open(ground.settings.database_url) as database:
        recorded = await histories.recorded_workloads(database, told)
    found = histories.workloads_violations(recorded, at_rest=True) + await histories.dead_letters(runtime.streams)
    return found + [f"runs: {pid}" for pid in marked(str(runtime.apps)) if not recorded.instances]


@pytest.mark.timeout(600)
async def test_a_kill_between_any_two_steps_leaves_no_orphan_and_loses_no_wish(ground: Ground, eventually):
    """Row 3: at point k, for every k until a life needs no more points; compared with an undisturbed life."""
    crashes = []
    async with ground.client() as runtime, Zygote("runtime", ground.variables()) as zygote:
        for crash_at in range(2, 400, APART):
            deployment = str(uuid.uuid4())
            child = await zygote.start(SHIPOFF_CRASH_AT=str(crash_at))
            child.send_signal(signal.SIGUSR1)
            await _a_life(runtime, deployment, child, eventually)
            finished = not child.ended.is_set()
            if finished:
                # What it does from here on crosses points as well.
                await child.kill()
            else:
                crashes.append(crash_at)
            child = await zygote.start()
            await eventually(partial(_answered, partial(runtime.apply, "family", deployment_id=deployment)), timeout_s=60)
            await eventually(partial(_whole, runtime, deployment), timeout_s=60)
            await histories.come_to_rest(partial(_violations, ground, runtime), partial(eventually, timeout_s=60))
            await runtime.stop(deployment)
            await eventually(partial(runtime.events, deployment, WorkloadStopped), timeout_s=60)
            await histories.come_to_rest(partial(_violations, ground, runtime), partial(eventually, timeout_s=60))
            assert not (runtime.apps / deployment).exists(), crash_at
            await child.kill()
            if finished:
                break
    assert crashes[-1] >= 30, "a life crosses more points than that: the test tests nothing"


async def _told_of(runtime: Runtime, deployment: str, endpoints: int) -> bool:
    told = await runtime.events(deployment, WorkloadEndpointsChanged)
    return bool(told) and len(told[-1].endpoints) == endpoints


async def _stopped(runtime: Runtime, deployment: str) -> bool:
    return (await runtime.get(deployment)).phase == STOPPED


async def _whole(runtime: Runtime, deployment: str) -> bool:
    """Ready with exactly the processes of its replicas, or already on its way out."""
    state = await runtime.get(deployment)
    ready = sum(instance.ready for instance in state.instances)
    if state.phase == READY and ready == state.replicas:
        return len(runtime.pids(deployment)) == 3 * state.replicas
    return state.phase in (STOPPED, runtime_pb2.WORKLOAD_PHASE_STOPPING)
