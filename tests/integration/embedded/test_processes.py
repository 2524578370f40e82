"""Servers end with who started them, and only they are ever signalled."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from shipoff.common.errors import Unavailable
from shipoff.embedded.layout import Layout
from shipoff.embedded.process import Child, Program, end_leftovers, leftover

Eventually = Callable[..., Awaitable[Any]]
SLEEP = ("/bin/sleep", "300")


def _program(layout: Layout, argv: tuple[str, ...] = SLEEP, **more: Any) -> Program:
    return Program(name="sleep", argv=argv, pid_file=layout.run / "sleep.pid", log_file=layout.log / "sleep.log", **more)


async def _started(layout: Layout, eventually: Eventually) -> Child:
    child = await Child.start(_program(layout))
    await eventually(lambda: psutil.Process(child.pid).name() == "sleep")
    return child


async def test_a_stopped_child_leaves_no_pid_file(layout: Layout, eventually: Eventually) -> None:
    child = await _started(layout, eventually)
    await child.stop()
    assert not psutil.pid_exists(child.pid)
    assert not child.program.pid_file.exists()


async def test_a_child_that_ignores_the_signal_is_killed(layout: Layout, eventually: Eventually) -> None:
    deaf = (
        sys.executable,
        "-c",
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(99)",
    )
    child = await Child.start(_program(layout, deaf, stop_timeout_s=0.2))
    await eventually(lambda: "deaf" in child.program.log_file.read_text())
    await child.stop()
    assert await child.wait() == -signal.SIGKILL


async def test_a_child_that_ends_while_starting_is_told_with_its_last_words(layout: Layout) -> None:
    child = await Child.start(_program(layout, ("/bin/sh", "-c", "echo no room >&2; exit 3")))
    await child.wait()
    with pytest.raises(Unavailable, match="ended with code 3 while starting: no room"):
        child.check()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asked of the kernel, which only Linux offers")
async def test_a_child_dies_with_a_platform_that_is_killed(layout: Layout, eventually: Eventually) -> None:
    code = (
        "import asyncio, sys; from pathlib import Path; from shipoff.embedded import process\n"
        "async def main():\n"
        "    folder = Path(sys.argv[1])\n"
        "    program = process.Program('sleep', ('/bin/sleep', '300'), folder / 'run/x.pid', folder / 'log/x.log')\n"
        "    print((await process.Child.start(program)).pid, flush=True)\n"
        "    await asyncio.sleep(300)\n"
        "asyncio.run(main())"
    )
    argv = [sys.executable, "-c", code, str(layout.home)]
    platform = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
    assert platform.stdout is not None
    pid = int(await platform.stdout.readline())
    await eventually(lambda: psutil.Process(pid).name() == "sleep")
    platform.kill()
    await platform.wait()
    await eventually(lambda: not psutil.pid_exists(pid))


async def test_what_an_earlier_platform_left_is_ended(layout: Layout, eventually: Eventually) -> None:
    child = await _started(layout, eventually)
    assert await end_leftovers(layout.run) == ["sleep"]
    assert await child.wait() == -signal.SIGTERM


@pytest.mark.parametrize(("started_before_s", "command"), [(60, "/bin/sleep"), (0, "/x/caddy")])
async def test_a_stranger_with_the_same_pid_is_left_alone(layout: Layout, started_before_s: float, command: str) -> None:
    stranger = await asyncio.create_subprocess_exec(*SLEEP)
    try:
        started = psutil.Process(stranger.pid).create_time() - started_before_s
        record = {"pid": stranger.pid, "started": started, "command": command, "stop_signal": 15}
        (layout.run / "sleep.pid").write_text(json.dumps(record))
        assert leftover(layout.run / "sleep.pid") is None
        assert await end_leftovers(layout.run) == []
        assert stranger.returncode is None
        assert psutil.Process(stranger.pid).status() != psutil.STATUS_ZOMBIE
    finally:
        stranger.kill()
        await stranger.wait()


@pytest.mark.parametrize("content", ["", "12", "[]", '{"pid": "x"}', '{"pid": 1}', "\x00"])
async def test_a_broken_pid_file_is_no_process(layout: Layout, content: str) -> None:
    path = layout.run / "sleep.pid"
    path.write_text(content)
    assert leftover(path) is None
    assert await end_leftovers(layout.run) == []
    assert not path.exists()


async def test_the_second_of_two_starts_replaces_the_first(layout: Layout, eventually: Eventually) -> None:
    first = await _started(layout, eventually)
    second = await _started(layout, eventually)
    assert not first.running or await first.wait() == -signal.SIGTERM
    assert second.running
    await second.stop()


def test_a_log_that_has_grown_is_set_aside(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    from shipoff.embedded import process

    monkeypatch.setattr(process, "_LOG_BYTES", 10)
    path: Path = layout.log / "x.log"
    path.write_text("more than ten bytes")
    with process.opened_log(path) as log:
        log.write(b"new")
    assert path.read_text() == "new"
    assert path.with_name("x.log.1").read_text() == "more than ten bytes"
