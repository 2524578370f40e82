"""The sum of CPU seconds that a build's programs may use, kept for those that undo what holds them to cores."""

from __future__ import annotations

import asyncio
import sys

import psutil

from shipoff.builder.assignment import Limits
from shipoff.builder.confine import TenantFiles
from shipoff.builder.watch import Watch
from shipoff.contracts.events.v1 import events_pb2

_FORKS = "import os\nfor _ in range(2): os.fork()\nwhile True: pass"


class _Started:
    """What a build started, as `Programs` tells it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def running(self) -> list[psutil.Process]:
        first = psutil.Process(self._pid)
        return [first, *first.children(recursive=True)]


async def test_more_cpu_than_the_reserved_cores_have_ends_the_build(tmp_path):
    busy = await asyncio.create_subprocess_exec(sys.executable, "-c", _FORKS)
    programs = _Started(busy.pid)
    watch = Watch(programs, TenantFiles(None), Limits(), tmp_path)  # type: ignore[arg-type]  # the part that is asked for
    watch.step = "build"
    already_s = watch.usage().cpu_s
    watch.cpu_limit_s = already_s + 1.0
    try:
        breach = await asyncio.wait_for(watch.until_breach(), 60)
    finally:
        for process in programs.running():
            process.kill()
        await busy.wait()
    assert breach.kind == events_pb2.BUILD_FAILURE_TIMEOUT
    assert "of CPU" in breach.reason
    assert breach.step == "build"
