"""A workload from its wish to its end, on real processes."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import psutil
import pytest
from neighbours.runtime import PYTHON, Ground, Runtime, artifact_of, http

from shipoff.common.errors import InvalidInput, NotFound, PreconditionFailed
from shipoff.contracts.events.v1.events_pb2 import WorkloadEndpointsChanged, WorkloadFailed, WorkloadReady, WorkloadStopped
from shipoff.contracts.runtime.v1 import runtime_pb2
from shipoff.contracts.types.v1 import types_pb2

READY = runtime_pb2.WORKLOAD_PHASE_READY
DEGRADED = runtime_pb2.WORKLOAD_PHASE_DEGRADED
FAILED = runtime_pb2.WORKLOAD_PHASE_FAILED
STOPPED = runtime_pb2.WORKLOAD_PHASE_STOPPED


async def ready_ports(runtime: Runtime, deployment: str, eventually) -> list[int]:
    """The ports of a workload, once it is ready."""
    (told,) = await eventually(lambda: runtime.events(deployment, WorkloadReady))
    return [endpoint.port for endpoint in told.endpoints]


async def test_an_app_becomes_ready_serves_with_its_variables_and_tells_where(runtime, eventually):
    deployment = await runtime.apply("serve", variables={"HELLO": "world", "PORT": "1"})
    (port,) = await ready_ports(runtime, deployment, eventually)
    assert "HELLO=world" in await http(port)
    state = await runtime.get(deployment)
    assert (state.phase, state.revision) == (READY, 1)
    assert [(one.ready, one.endpoint.port, one.restarts) for one in state.instances] == [(True, port, 0)]


async def test_apps_run_under_the_tenants_account_without_a_way_to_more(runtime, eventually):
    deployment = await runtime.apply("serve")
    (port,) = await ready_ports(runtime, deployment, eventually)
    (pid,) = runtime.pids(deployment)
    process = psutil.Process(pid)
    assert str(process.uids().real) in (await http(port)).split()
    assert process.uids().real != 0
    assert os.getsid(pid) != os.getsid(0)
    assert "NoNewPrivs:\t1" in proc(pid, "status")
    assert re.search(r"Max core file size +0 +0 ", proc(pid, "limits"))
    environment = process.environ()
    assert not [name for name in environment if name.startswith("SHIPOFF_") and name != "SHIPOFF_INSTANCE"]


def proc(pid: int, name: str) -> str:
    """A file of the kernel's about a process (proc(5))."""
    return Path(f"/proc/{pid}/{name}").read_text()


async def test_applying_again_changes_nothing(runtime, eventually):
    deployment = await runtime.apply("serve")
    await ready_ports(runtime, deployment, eventually)
    pids = runtime.pids(deployment)
    await runtime.apply("crash", deployment_id=deployment)
    assert runtime.pids(deployment) == pids
    assert len(await runtime.events(deployment)) == 1


async def test_an_app_that_answers_with_errors_is_not_ready_and_fails_at_its_deadline(runtime, eventually):
    run = types_pb2.RunSettings(health_path="/unwell", ready_timeout_s=2)
    deployment = await runtime.apply("serve", run=run)
    (failed,) = await eventually(lambda: runtime.events(deployment, WorkloadFailed))
    assert "never became ready: GET /unwell on port" in failed.reason
    assert "answered 500 within 2 s" in failed.reason
    assert not failed.was_ready
    await eventually(lambda: not runtime.pids(deployment) and not (runtime.apps / deployment).exists())
    assert (await runtime.get(deployment)).phase == FAILED


async def test_an_app_that_listens_on_nothing_never_becomes_ready(runtime, eventually):
    deployment = await runtime.apply("sleep", run=types_pb2.RunSettings(ready_timeout_s=1))
    (failed,) = await eventually(lambda: runtime.events(deployment, WorkloadFailed))
    assert failed.reason.startswith("never became ready: nothing answered on port ")
    assert failed.reason.endswith(" within 1 s")


async def test_an_app_that_keeps_exiting_fails_with_its_last_words(runtime, eventually):
    deployment = await runtime.apply("crash")
    (failed,) = await eventually(lambda: runtime.events(deployment, WorkloadFailed))
    assert failed.reason == "exited 3 times before it was ready: exit code 7 — last lines: cannot find the flux capacitor"
    await runtime.stop(deployment)
    await eventually(lambda: runtime.events(deployment, WorkloadStopped))


async def test_a_program_that_is_not_there_fails_with_its_name(runtime, eventually):
    deployment = await runtime.apply(processes={"web": [".venv/bin/gunicorn", "app:app"]})
    (failed,) = await eventually(lambda: runtime.events(deployment, WorkloadFailed))
    assert "exit code 127" in failed.reason
    assert ".venv/bin/gunicorn" in failed.reason


async def test_a_killed_app_comes_back_on_the_same_port(runtime, eventually):
    deployment = await runtime.apply("serve")
    (port,) = await ready_ports(runtime, deployment, eventually)
    (pid,) = runtime.pids(deployment)
    before = (await http(port)).split()[1]
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: runtime.pids(deployment) not in (set(), {pid}))

    async def whole() -> bool:
        state = await runtime.get(deployment)
        return state.phase == READY and state.instances[0].ready

    await eventually(whole)
    (instance,) = (await runtime.get(deployment)).instances
    assert (instance.endpoint.port, instance.restarts) == (port, 1)
    assert instance.last_exit == "killed by signal 9 (SIGKILL)"
    assert before not in await http(port)


async def test_an_app_that_stops_answering_is_restarted(runtime, eventually):
    deployment = await runtime.apply("serve")
    (port,) = await ready_ports(runtime, deployment, eventually)
    (pid,) = runtime.pids(deployment)
    # It lives, but its listening socket's backlog fills up: nobody accepts.
    os.kill(pid, signal.SIGSTOP)

    async def restarted() -> bool:
        for _ in range(20):
            flood.append(await _connection(port))
        return (await runtime.get(deployment)).instances[0].restarts == 1

    flood: list[object] = []
    await eventually(restarted, timeout_s=30)
    assert "stopped answering" in (await runtime.get(deployment)).instances[0].last_exit
    await eventually(lambda: runtime.pids(deployment) not in (set(), {pid}))


async def _connection(port: int) -> object:
    import asyncio

    try:
        async with asyncio.timeout(0.05):
            return await asyncio.open_connection("127.0.0.1", port)
    except (OSError, TimeoutError):
        return None


async def test_stopping_ends_everything_and_tells_so_once(runtime, eventually):
    deployment = await runtime.apply("family")
    await ready_ports(runtime, deployment, eventually)
    assert len(runtime.pids(deployment)) == 3
    await runtime.stop(deployment)
    await runtime.stop(deployment)
    await eventually(lambda: runtime.events(deployment, WorkloadStopped))
    assert runtime.pids(deployment) == set()
    assert not (runtime.apps / deployment).exists()
    assert (await runtime.get(deployment)).phase == STOPPED
    await runtime.stop(deployment)
    assert len(await runtime.events(deployment, WorkloadStopped)) == 1


async def test_an_app_that_hears_sigterm_ends_by_itself_and_a_deaf_one_is_killed(runtime, eventually):
    polite, deaf = await runtime.apply("serve"), await runtime.apply("deaf")
    for deployment in (polite, deaf):
        await ready_ports(runtime, deployment, eventually)
    for deployment in (polite, deaf):
        await runtime.stop(deployment)
    await eventually(lambda: runtime.events(polite, WorkloadStopped))
    assert runtime.pids(deaf)
    await eventually(lambda: runtime.events(deaf, WorkloadStopped))
    assert not runtime.pids(deaf)
    assert "goodbye" in [text for *_, text in await runtime.lines(polite)]


async def test_what_is_unknown_is_stopped_already_but_cannot_be_read_or_scaled(runtime):
    unknown = "0197b6a0-0000-7000-8000-000000000001"
    await runtime.stop(unknown)
    with pytest.raises(NotFound):
        await runtime.get(unknown)
    with pytest.raises(NotFound):
        await runtime.scale(unknown, 2)


async def test_scaling_tells_each_set_of_endpoints_and_gives_every_instance_its_own_port(runtime, eventually):
    deployment = await runtime.apply("serve")
    await ready_ports(runtime, deployment, eventually)
    await runtime.scale(deployment, 3)

    async def endpoints(count: int) -> list[int]:
        told = await runtime.events(deployment, WorkloadEndpointsChanged)
        ports = [endpoint.port for endpoint in told[-1].endpoints] if told else []
        return ports if len(ports) == count else []

    ports = await eventually(lambda: endpoints(3))
    assert len(set(ports)) == 3
    assert len({(await http(port)).split()[1] for port in ports}) == 3
    await runtime.scale(deployment, 1)
    (port,) = await eventually(lambda: endpoints(1))
    assert port in ports
    await eventually(lambda: len(runtime.pids(deployment)) == 1)
    revisions = [event.revision for event in await runtime.events(deployment)]
    assert revisions == sorted(set(revisions))
    await runtime.stop(deployment)
    await eventually(lambda: runtime.events(deployment, WorkloadStopped))
    with pytest.raises(PreconditionFailed):
        await runtime.scale(deployment, 2)


async def test_restarting_replaces_every_instance_while_others_serve(runtime, eventually):
    deployment = await runtime.apply("serve", run=types_pb2.RunSettings(replicas=2))
    await ready_ports(runtime, deployment, eventually)
    before = runtime.pids(deployment)
    await runtime.restart(deployment)

    async def replaced() -> bool:
        ready = [one for one in (await runtime.get(deployment)).instances if one.ready]
        assert ready, "nobody served"
        return len(ready) == 2 and not before & runtime.pids(deployment) and len(runtime.pids(deployment)) == 2

    await eventually(replaced)
    assert (await runtime.get(deployment)).phase == READY


async def test_a_paused_app_rests_through_a_restart_of_the_platform_and_comes_back(ground: Ground, eventually):
    async with ground.runtime() as runtime:
        deployment = await runtime.apply("serve")
        await ready_ports(runtime, deployment, eventually)
        await runtime.pause(deployment)
        await eventually(lambda: not runtime.pids(deployment))
        assert (await runtime.get(deployment)).phase == runtime_pb2.WORKLOAD_PHASE_PAUSED
        await runtime.scale(deployment, 2)
    async with ground.runtime() as runtime:
        await eventually(lambda: rested(runtime, deployment))
        assert not runtime.pids(deployment)
        assert not await runtime.events(deployment, WorkloadFailed)
        await runtime.pause(deployment, paused=False)
        told = await eventually(lambda: runtime.events(deployment, WorkloadEndpointsChanged))
        assert told[0].revision == 2
        await eventually(lambda: len(runtime.pids(deployment)) == 2)


async def rested(runtime: Runtime, deployment: str) -> bool:
    answer = await runtime.get(deployment)
    return answer.phase == runtime_pb2.WORKLOAD_PHASE_PAUSED and not answer.instances


async def test_workers_run_beside_and_without_a_web_process(runtime, eventually):
    command = [PYTHON, "app.py"]
    both = await runtime.apply(processes={"web": [*command, "serve", "${PORT}"], "worker": [*command, "sleep"]})
    alone = await runtime.apply(processes={"worker": [*command, "sleep"], "release": ["/bin/false"]})
    assert len(await ready_ports(runtime, both, eventually)) == 1
    assert await ready_ports(runtime, alone, eventually) == []
    assert len(runtime.pids(both)) == 2
    assert len(runtime.pids(alone)) == 1


async def test_an_app_above_its_memory_is_killed_and_restarted(runtime, eventually):
    deployment = await runtime.apply("serve", run=types_pb2.RunSettings(memory_bytes=100 << 20))
    (port,) = await ready_ports(runtime, deployment, eventually)
    await http(port, "/hoard")

    async def told() -> str:
        return (await runtime.get(deployment)).instances[0].last_exit

    assert "out of memory: it used more than its 100 MiB" in await eventually(told)


async def test_a_crash_loop_after_ready_is_told_once_and_still_tried(runtime, eventually):
    deployment = await runtime.apply("fragile")
    (port,) = await ready_ports(runtime, deployment, eventually)
    with pytest.raises(OSError):  # noqa: PT011 - however the connection breaks
        await http(port, "/crash") or _raise()
    (failed,) = await eventually(lambda: runtime.events(deployment, WorkloadFailed), timeout_s=20)
    assert failed.was_ready
    assert "crash loop: exited 3 times" in failed.reason
    assert "exit code 9" in failed.reason
    assert (await runtime.get(deployment)).phase == DEGRADED
    await eventually(lambda: _restarts(runtime, deployment, 6))
    assert len(await runtime.events(deployment, WorkloadFailed)) == 1


def _raise() -> None:
    raise OSError("the connection was closed without an answer")


async def _restarts(runtime: Runtime, deployment: str, least: int) -> bool:
    return (await runtime.get(deployment)).instances[0].restarts >= least


async def test_a_damaged_artifact_is_refused_and_nothing_is_left(runtime, eventually):
    deployment = await runtime.apply("serve", files={"../outside": b"x"})
    (failed,) = await eventually(lambda: runtime.events(deployment, WorkloadFailed))
    assert "'../outside' leads outside" in failed.reason
    await eventually(lambda: not (runtime.apps / deployment).exists())
    assert not (runtime.apps / "outside").exists()


async def test_an_artifact_that_is_not_what_its_digest_says_never_starts_and_the_old_version_serves_on(runtime, eventually):
    old = await runtime.apply("serve")
    (port,) = await ready_ports(runtime, old, eventually)
    corrupted = await runtime.apply("serve", files={"note": b"new"}, damage=artifact_of({"app.py": b"evil"}))
    (failed,) = await eventually(lambda: runtime.events(corrupted, WorkloadFailed))
    assert "the artifact was damaged: it is not what its digest says" in failed.reason
    assert not runtime.pids(corrupted)
    await eventually(lambda: not (runtime.apps / corrupted).exists())
    assert await http(port)


@pytest.mark.parametrize("name", ["../up", "a/b", "", "x" * 100])
async def test_a_process_whose_name_is_no_name_is_refused(runtime, name):
    with pytest.raises(InvalidInput):
        await runtime.apply(processes={name: ["true"]})


async def test_leaving_stops_every_app_and_the_next_start_brings_them_back(ground: Ground, eventually):
    async with ground.runtime() as runtime:
        deployment = await runtime.apply("serve")
        (port,) = await ready_ports(runtime, deployment, eventually)
    assert not runtime.pids(deployment)
    async with ground.runtime() as runtime:
        await eventually(lambda: runtime.pids(deployment))
        await eventually(lambda: _answers(port))
        assert (await runtime.get(deployment)).instances[0].restarts == 0
        assert await runtime.events(deployment, WorkloadEndpointsChanged) == []


async def _answers(port: int) -> bool:
    try:
        return bool(await http(port))
    except OSError:
        return False


async def test_leaving_can_leave_the_apps_running_for_the_next_start(ground: Ground, eventually):
    async with ground.runtime(stop_on_exit=False) as runtime:
        deployment = await runtime.apply("serve")
        (port,) = await ready_ports(runtime, deployment, eventually)
        pids = runtime.pids(deployment)
    assert await http(port)
    async with ground.runtime() as runtime:
        await eventually(lambda: _answers(port))
        assert runtime.pids(deployment) == pids
        await runtime.stop(deployment)
        await eventually(lambda: runtime.events(deployment, WorkloadStopped))
        assert not runtime.pids(deployment)
