"""The runtime is killed at any point of a release command's life: it has run once all the same, and the app serves after it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import uuid
from collections.abc import AsyncIterator

import pytest
from neighbours.runtime import PYTHON, Ground, Runtime, fresh_ground
from neighbours.zygote import Child, Zygote

from shipoff.common.errors import ShipoffError
from shipoff.contracts.events.v1.events_pb2 import WorkloadFailed, WorkloadStopped
from shipoff.contracts.runtime.v1 import runtime_pb2

# A run of the suite takes every sixth point; SHIPOFF_TEST_POINTS_APART=1 takes all.
APART = int(os.environ.get("SHIPOFF_TEST_POINTS_APART", "6"))
CODE = "import os, pathlib, time; pathlib.Path(os.environ['HOME'], 'ran').open('a').write('once '); time.sleep(0.2)"
PROCESSES = {"web": [PYTHON, "app.py", "serve", "$PORT"], "release": [PYTHON, "-c", CODE]}


@pytest.fixture
async def ground(backing, redis_url, database_url_for) -> AsyncIterator[Ground]:
    """Stores and a folder for one test, in which runtimes can be started one after the other."""
    url = await database_url_for("runtime")
    async with fresh_ground(backing.home, database_url=url, redis_url=redis_url, objects_url=backing.objects_url) as made:
        yield made


async def _ready(runtime: Runtime, deployment: str) -> bool:
    with contextlib.suppress(ShipoffError):
        return (await runtime.get(deployment)).phase == runtime_pb2.WORKLOAD_PHASE_READY
    return False


async def _applied(runtime: Runtime, deployment: str) -> bool:
    with contextlib.suppress(ShipoffError):
        await runtime.apply(processes=PROCESSES, deployment_id=deployment, release_timeout_s=60)
        return True
    return False


async def _lives(runtime: Runtime, deployment: str, child: Child, eventually) -> None:
    """To its first readiness, or to the runtime's death."""
    if not await _applied(runtime, deployment):
        await asyncio.wait_for(child.ended.wait(), 20)
    await eventually(lambda: child.ended.is_set() or _ready(runtime, deployment), timeout_s=60)


@pytest.mark.timeout(300)
async def test_a_kill_between_any_two_steps_neither_repeats_nor_skips_it(ground: Ground, eventually):
    crashes = []
    async with ground.client() as runtime, Zygote("runtime", ground.variables()) as zygote:
        for crash_at in range(1, 200, APART):
            deployment = str(uuid.uuid4())
            child = await zygote.start(SHIPOFF_CRASH_AT=str(crash_at))
            child.send_signal(signal.SIGUSR1)
            await _lives(runtime, deployment, child, eventually)
            finished = not child.ended.is_set()
            if not finished:
                crashes.append(crash_at)
                child = await zygote.start()
                await eventually(lambda at=deployment: _applied(runtime, at), timeout_s=60)
                await eventually(lambda at=deployment: _ready(runtime, at), timeout_s=60)
            assert (runtime.apps / deployment / "home" / "ran").read_text() == "once ", crash_at
            assert not await runtime.events(deployment, WorkloadFailed), crash_at
            if finished:
                break
            await runtime.stop(deployment)
            await eventually(lambda at=deployment: runtime.events(at, WorkloadStopped), timeout_s=60)
            await child.kill()
    assert len(crashes) >= 2, "a life crosses more points than that: the test tests nothing"


async def test_how_it_ended_is_known_to_a_runtime_that_was_away(ground: Ground, eventually):
    """It runs on under its keeper while nobody looks after it, and fails there."""
    waits = "while not pathlib.Path('go').exists(): time.sleep(0.02)"
    code = f"import pathlib, sys, time; print('begun', flush=True)\n{waits}\nsys.exit(4)"
    processes = {**PROCESSES, "release": [PYTHON, "-c", code]}
    async with ground.client() as runtime:
        async with ground.process() as service:
            deployment = await runtime.apply(processes=processes, release_timeout_s=60)
            await eventually(lambda: runtime.lines(deployment))
            service.kill()
            await service.wait()
        (runtime.apps / deployment / "release" / "go").touch()
        await eventually(lambda: not runtime.pids(deployment))
        async with ground.process():
            (failed,) = await eventually(lambda: runtime.events(deployment, WorkloadFailed))
            assert failed.reason.startswith("its release command failed: exit code 4")


async def test_one_that_was_killed_with_its_keeper_is_not_run_again(ground: Ground, eventually):
    """The machine lost its power: nobody can tell how far it came."""
    processes = {**PROCESSES, "release": [PYTHON, "-c", f"{CODE}; print('begun', flush=True); time.sleep(600)"]}
    async with ground.client() as runtime:
        async with ground.process() as service:
            deployment = await runtime.apply(processes=processes, release_timeout_s=60)
            await eventually(lambda: runtime.lines(deployment))
            service.kill()
            await service.wait()
        for pid in runtime.pids(deployment):
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: not runtime.pids(deployment))
        async with ground.process():
            (failed,) = await eventually(lambda: runtime.events(deployment, WorkloadFailed))
            assert "nobody can tell how far it came" in failed.reason
