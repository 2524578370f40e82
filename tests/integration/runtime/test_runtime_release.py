"""The release command as a real process: before the app, with its variables, to its end, once."""

from __future__ import annotations

from functools import partial

from neighbours.runtime import PYTHON, Ground, Runtime, http

from shipoff.contracts.events.v1.events_pb2 import WorkloadFailed, WorkloadReady, WorkloadStopped
from shipoff.contracts.runtime.v1 import runtime_pb2

WEB = [PYTHON, "app.py", "serve", "$PORT"]
RAN = "import os, pathlib; file = pathlib.Path(os.environ['HOME'], 'ran').open('a'); print(os.environ.get('HELLO'), file=file)"


def with_release(code: str) -> dict[str, list[str]]:
    return {"web": WEB, "release": [PYTHON, "-c", code]}


async def _said(runtime: Runtime, deployment: str, lines: list[str]) -> bool:
    return [text for *_, text in await runtime.lines(deployment)] == lines


def ran(runtime: Runtime, deployment: str) -> str:
    return (runtime.apps / deployment / "home" / "ran").read_text()


async def test_it_runs_once_before_the_app_with_its_variables(runtime, eventually):
    deployment = await runtime.apply(processes=with_release(RAN), variables={"HELLO": "world"}, release_timeout_s=60)
    (told,) = await eventually(lambda: runtime.events(deployment, WorkloadReady))
    assert await http(told.endpoints[0].port)
    assert ran(runtime, deployment) == "world\n"
    await runtime.restart(deployment)
    await runtime.scale(deployment, 2)
    await eventually(lambda: len(runtime.pids(deployment)) >= 2)
    assert ran(runtime, deployment) == "world\n"


async def test_where_it_is_not_wanted_only_the_app_runs(runtime, eventually):
    deployment = await runtime.apply(processes=with_release("raise SystemExit(1)"))
    assert await eventually(lambda: runtime.events(deployment, WorkloadReady))


async def test_one_that_fails_leaves_nothing_running_and_says_what_it_said(runtime, eventually):
    code = "import sys; print('no such column', file=sys.stderr); sys.exit(3)"
    deployment = await runtime.apply(processes=with_release(code), release_timeout_s=60)
    (failed,) = await eventually(lambda: runtime.events(deployment, WorkloadFailed))
    assert failed.reason == "its release command failed: exit code 3 — last lines: no such column"
    assert not failed.was_ready
    assert not runtime.pids(deployment)
    lines = await eventually(lambda: runtime.lines(deployment))
    assert [(stream.partition("/")[2], text) for stream, _, _, text in lines] == [("app/release-0/1", "no such column")]


async def test_one_that_does_not_end_is_ended_at_its_time(runtime, eventually):
    deployment = await runtime.apply(processes=with_release("import time; time.sleep(600)"), release_timeout_s=1)
    (failed,) = await eventually(lambda: runtime.events(deployment, WorkloadFailed))
    assert failed.reason == "its release command did not end within 1 s"
    await eventually(lambda: not runtime.pids(deployment))


async def test_what_it_leaves_running_ends_with_it(runtime, eventually):
    code = "import subprocess, sys; subprocess.Popen([sys.executable, 'app.py', 'sleep'], start_new_session=True)"
    deployment = await runtime.apply(processes=with_release(code), release_timeout_s=60)
    await eventually(lambda: runtime.events(deployment, WorkloadReady))
    await eventually(lambda: len(runtime.pids(deployment)) == 1)


async def test_a_deployment_that_is_called_off_asks_it_to_end(runtime, eventually):
    code = (
        "import signal, sys, time\n"
        "def end(*_): print('undone', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end); print('begun', flush=True); time.sleep(600)"
    )
    deployment = await runtime.apply(processes=with_release(code), release_timeout_s=60)
    await eventually(lambda: runtime.lines(deployment))
    await runtime.stop(deployment)
    await eventually(lambda: runtime.events(deployment, WorkloadStopped))
    await eventually(partial(_said, runtime, deployment, ["begun", "undone"]))


async def test_a_platform_that_stops_meanwhile_does_not_run_it_again(ground: Ground, eventually):
    deployment = ""
    code = f"{RAN}; file.flush(); import time; print('begun', flush=True); time.sleep(600)"
    async with ground.runtime() as first:
        deployment = await first.apply(processes=with_release(code), release_timeout_s=60)
        await eventually(lambda: first.lines(deployment))
    async with ground.runtime() as second:
        (failed,) = await eventually(lambda: second.events(deployment, WorkloadFailed))
        assert failed.reason.startswith("its release command failed: killed by signal 15 (SIGTERM)")
        assert (await second.get(deployment)).phase == runtime_pb2.WORKLOAD_PHASE_FAILED
