"""One-off commands in a release, as real processes."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from neighbours.commands import command, ran
from neighbours.runtime import PYTHON, Ground, Runtime

from shipoff.common.errors import Exhausted, NotFound, PreconditionFailed, Unavailable
from shipoff.contracts.runtime.v1 import commands_pb2, runtime_pb2
from shipoff.contracts.types.v1 import types_pb2


async def serving(runtime: Runtime, eventually, **more: object) -> str:
    deployment_id = await runtime.apply("serve", **more)

    async def ready() -> bool:
        return (await runtime.get(deployment_id)).phase == runtime_pb2.WORKLOAD_PHASE_READY

    await eventually(ready, timeout_s=30)
    return deployment_id


async def test_a_command_sees_the_release_and_its_variables_and_its_exit_code_comes_back(
    ground: Ground, runtime: Runtime, eventually
) -> None:
    deployment_id = await serving(runtime, eventually, variables={"GREETING": "good morning"})
    script = "import os, sys; print(os.environ['GREETING'], os.listdir('.')); print('oh', file=sys.stderr); sys.exit(3)"
    said = await ran(ground, deployment_id, PYTHON, "-c", script)
    assert said.exit is not None
    assert said.exit.code == 3
    assert said.exit.reason == ""
    assert said.stdout == "good morning ['app.py']\n"
    assert said.stderr == "oh\n"
    # No shell reads the arguments.
    said = await ran(ground, deployment_id, "echo", "$(id); *", "${HOME}")
    assert said.stdout == "$(id); * ${HOME}\n"
    # Nothing of it counts as an instance.
    [instance] = (await runtime.get(deployment_id)).instances
    assert instance.process == "web"


async def test_input_reaches_the_command_until_it_ends(ground: Ground, runtime: Runtime, eventually) -> None:
    deployment_id = await serving(runtime, eventually)
    async with command(ground, deployment_id, "cat", has_input=True) as session:
        session.send(b"one\n")
        await eventually(lambda: session.said.stdout == "one\n", timeout_s=20)
        session.send(b"two\n")
        session.send(b"")
        await eventually(lambda: session.said.exit is not None, timeout_s=20)
        assert session.said.stdout == "one\ntwo\n"
        assert session.said.exit.code == 0


async def test_an_interrupted_command_may_tidy_up(ground: Ground, runtime: Runtime, eventually) -> None:
    deployment_id = await serving(runtime, eventually)
    script = (
        "import time\ntry:\n print('up', flush=True); time.sleep(600)\nexcept KeyboardInterrupt:\n print('tidied'); exit(5)"
    )
    async with command(ground, deployment_id, PYTHON, "-c", script) as session:
        await eventually(lambda: session.said.stdout == "up\n", timeout_s=20)
        session.interrupt()
        await eventually(lambda: session.said.exit is not None, timeout_s=20)
        assert (session.said.stdout, session.said.exit.code) == ("up\ntidied\n", 5)


async def test_nothing_of_a_command_outlives_its_caller(ground: Ground, runtime: Runtime, eventually) -> None:
    deployment_id = await serving(runtime, eventually)
    before = runtime.pids(deployment_id)
    script = "import subprocess, time; subprocess.Popen(['sleep', '600'], start_new_session=True); print('up', flush=True)\n"
    async with command(ground, deployment_id, PYTHON, "-c", script + "time.sleep(600)") as session:
        await eventually(lambda: session.said.stdout == "up\n", timeout_s=20)
        assert len(runtime.pids(deployment_id)) >= len(before) + 2
    await eventually(lambda: runtime.pids(deployment_id) == before, timeout_s=20)


async def test_a_command_ends_when_its_time_or_its_memory_is_used_up(ground: Ground, runtime: Runtime, eventually) -> None:
    deployment_id = await serving(runtime, eventually, run=types_pb2.RunSettings(memory_bytes=64 << 20))
    said = await ran(ground, deployment_id, "sleep", "600", time_limit_s=1)
    assert (said.exit.code, said.exit.reason) == (124, "it took longer than its 1 s")
    script = "import os, time; hoard = bytearray(os.urandom(1 << 20) * 200); time.sleep(600)"
    said = await ran(ground, deployment_id, PYTHON, "-c", script)
    assert said.exit.reason == "out of memory: it used more than its 64 MiB"


async def test_output_that_nobody_reads_holds_the_command_up_and_nothing_is_lost(
    ground: Ground, runtime: Runtime, eventually
) -> None:
    deployment_id = await serving(runtime, eventually)
    said = await ran(ground, deployment_id, PYTHON, "-c", "print('x' * 3_000_000, end='')")
    assert len(said.stdout) == 3_000_000
    assert said.exit.code == 0


async def test_a_command_that_cannot_be_started_says_so(ground: Ground, runtime: Runtime, eventually) -> None:
    deployment_id = await serving(runtime, eventually)
    said = await ran(ground, deployment_id, "no-such-program")
    assert said.exit.code == 127
    assert "no such program in PATH" in said.stderr


async def test_only_what_runs_takes_commands_and_only_so_many(ground: Ground, runtime: Runtime, eventually) -> None:
    with pytest.raises(NotFound):
        await ran(ground, "00000000-0000-4000-8000-000000000000", "true")
    deployment_id = await serving(runtime, eventually)
    held = [command(ground, deployment_id, "sleep", "600") for _ in range(4)]
    sessions = [await one.__aenter__() for one in held]
    await eventually(lambda: all(one.said.started for one in sessions), timeout_s=20)
    with pytest.raises(Exhausted):
        await ran(ground, deployment_id, "true")
    await asyncio.gather(*(one.__aexit__(None, None, None) for one in held))

    async def room() -> bool:
        try:
            return (await ran(ground, deployment_id, "true")).exit.code == 0
        except Exhausted:
            return False

    await eventually(room, timeout_s=20)
    await runtime.stop(deployment_id)
    with pytest.raises(PreconditionFailed):
        await ran(ground, deployment_id, "true")


async def test_a_command_in_an_instance_has_its_address(ground: Ground, runtime: Runtime, eventually) -> None:
    deployment_id = await serving(runtime, eventually)
    [instance] = (await runtime.get(deployment_id)).instances
    said = await ran(ground, deployment_id, "printenv", "PORT", within=commands_pb2.CommandPlace())
    assert said.stdout == f"{instance.endpoint.port}\n"
    with pytest.raises(NotFound, match=r"there is no instance web\.7"):
        await ran(ground, deployment_id, "true", within=commands_pb2.CommandPlace(index=7))


async def test_what_a_killed_runtime_leaves_of_a_command_is_ended_by_the_next(ground: Ground, eventually) -> None:
    async with ground.process() as child, ground.client() as runtime:
        deployment_id = await serving(runtime, eventually)
        before = runtime.pids(deployment_id)
        held = command(ground, deployment_id, PYTHON, "-c", "import time; print('up', flush=True); time.sleep(600)")
        session = await held.__aenter__()
        await eventually(lambda: session.said.stdout == "up\n", timeout_s=20)
        child.kill()
        await child.wait()
        assert len(runtime.pids(deployment_id)) > len(before)
        with contextlib.suppress(Unavailable):
            await held.__aexit__(None, None, None)
    async with ground.runtime() as runtime:
        await eventually(lambda: runtime.pids(deployment_id) == before, timeout_s=30)
