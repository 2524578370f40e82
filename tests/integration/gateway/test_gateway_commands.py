"""The WebSocket of commands, and the verbs `run` and `exec` through it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from neighbours.ports import free_port
from websockets.exceptions import ConnectionClosed, InvalidStatus

PATH = "/v1/projects/shop/commands"


async def said(stream: Any) -> list[Any]:
    """Everything up to the end."""
    found: list[Any] = []
    try:
        while True:
            message = await asyncio.wait_for(stream.recv(), 20)
            found.append(message if isinstance(message, bytes) else json.loads(message))
    except ConnectionClosed:
        return found


async def test_output_and_exit_come_as_the_runtime_tells_them(rig: Any) -> None:
    live = rig.world.deployment("PRODUCTION")
    async with rig.follow(PATH, token=rig.developer) as stream:
        await stream.send(json.dumps({"command": ["echo", "hello", "$(id)"], "time_limit_s": 60}))
        told = await said(stream)
    assert told == [{"type": "started"}, b"\x01hello $(id)\n", b"\x02oh\n", {"type": "exit", "code": 0, "reason": None}]
    [start] = rig.world.commands
    assert (start.deployment_id, list(start.argv), start.time_limit_s) == (live.id, ["echo", "hello", "$(id)"], 60)
    assert not start.HasField("within")
    assert rig.world.audited() == ["command.run"]


async def test_a_command_in_an_instance_is_audited_as_such(rig: Any) -> None:
    rig.world.deployment("PRODUCTION")
    async with rig.follow(PATH, token=rig.developer) as stream:
        await stream.send(json.dumps({"command": ["cat"], "has_input": True, "instance": {"process": "worker", "index": 1}}))
        await stream.send(b"one")
        await stream.send(json.dumps({"type": "input_end"}))
        told = await said(stream)
    assert told[1:] == [b"\x01one", {"type": "exit", "code": 0, "reason": None}]
    [start] = rig.world.commands
    assert (start.within.process, start.within.index, start.has_input) == ("worker", 1, True)
    assert rig.world.audited() == ["command.exec"]


@pytest.mark.parametrize(("who", "status"), [("viewer", 403), ("stranger", 404), ("loner", 404), (None, 401)])
async def test_only_developers_of_the_team_run_commands(rig: Any, who: str | None, status: int) -> None:
    rig.world.deployment("PRODUCTION")
    with pytest.raises(InvalidStatus) as refused:
        async with rig.follow(PATH, token=getattr(rig, who) if who else None):
            pass
    assert refused.value.response.status_code == status
    assert not rig.world.commands


@pytest.mark.parametrize(
    ("message", "status", "field"),
    [
        ({"command": []}, 400, "command"),
        ({"command": ["x"], "time_limit_s": 9999}, 400, "time_limit_s"),
        ({"command": "rm -rf /"}, 400, "command"),
        ({"command": ["x"], "shell": True}, 400, "shell"),
    ],
)
async def test_what_is_no_command_is_refused_by_its_field(rig: Any, message: Any, status: int, field: str) -> None:
    rig.world.deployment("PRODUCTION")
    async with rig.follow(PATH, token=rig.developer) as stream:
        await stream.send(json.dumps(message))
        [told] = await said(stream)
    assert (told["type"], told["problem"]["status"], told["problem"]["field"]) == ("error", status, field)
    assert not rig.world.commands


async def test_without_anything_live_there_is_nothing_to_run_in(rig: Any) -> None:
    async with rig.follow(PATH, token=rig.developer) as stream:
        await stream.send(json.dumps({"command": ["echo"]}))
        [told] = await said(stream)
    assert (told["problem"]["status"], told["problem"]["detail"]) == (404, "nothing of shop is live in production")


async def test_the_command_ends_with_its_client(rig: Any, eventually: Any) -> None:
    rig.world.deployment("PRODUCTION")
    async with rig.follow(PATH, token=rig.developer) as stream:
        await stream.send(json.dumps({"command": ["hang"]}))
        await eventually(lambda: "command" in rig.world.streams_open)
    await eventually(lambda: "command" not in rig.world.streams_open)


async def verb(rig: Any, port: int, folder: Path, *arguments: str, stdin: bytes | None = None) -> Any:
    environment = {**os.environ, "SHIPOFF_URL": f"http://127.0.0.1:{port}", "SHIPOFF_TOKEN": rig.developer, "HOME": str(folder)}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shipoff", *arguments, env=environment, cwd=folder,
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def test_the_verbs_pass_everything_on(gateway_with: Any, tmp_path: Path, eventually: Any) -> None:
    port = free_port()
    async with gateway_with(http_listen=f"127.0.0.1:{port}") as rig:
        rig.world.deployment("PRODUCTION")
        child = await verb(rig, port, tmp_path, "run", "-p", "shop", "--timeout", "2m", "--", "echo", "-n", "*")
        assert await child.communicate() == (b"-n *\n", b"oh\n")
        assert child.returncode == 0
        assert rig.world.commands[-1].time_limit_s == 120
        child = await verb(rig, port, tmp_path, "exec", "-p", "shop", "-i", "--instance", "worker.2", "--", "cat", stdin=b"")
        assert await child.communicate(b"x" * 100_000) == (b"x" * 100_000, b"")
        assert (rig.world.commands[-1].within.process, rig.world.commands[-1].within.index) == ("worker", 2)
        child = await verb(rig, port, tmp_path, "run", "-p", "shop", "--json", "--", "exit", "124")
        stdout, stderr = await child.communicate()
        assert child.returncode == 124
        assert json.loads(stdout) == {"type": "exit", "code": 124, "reason": "it took longer"}
        assert json.loads(stderr) == {"note": "it took longer"}
        child = await verb(rig, port, tmp_path, "run", "-p", "shop", "--", "refuse")
        stdout, stderr = await child.communicate()
        assert child.returncode == 1
        assert b"too many commands run at the same time" in stderr
        child = await verb(rig, port, tmp_path, "run", "-p", "shop", "--", "wait")
        await eventually(lambda: "command" in rig.world.streams_open, timeout_s=20)
        child.send_signal(signal.SIGINT)
        assert (await child.communicate())[0] == b"interrupted\n"
        assert child.returncode == 0
