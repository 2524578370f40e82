"""The CPU seconds of a build, counted over everything that it ever started."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import psutil
import pytest

from shipoff.builder.assignment import Limits
from shipoff.builder.confine import TenantFiles
from shipoff.builder.cpu import CpuBudget, CpuTally
from shipoff.builder.watch import Watch
from shipoff.contracts.events.v1 import events_pb2

# Two processes that turn for half a second of CPU each; the first does not wait for the other, and turns once more when told.
_FORKS = """import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
os.fork()
while time.process_time() < 0.5: pass
signal.sigwait({signal.SIGUSR1})
while time.process_time() < 1.0: pass
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("samples", "total_s"),
    [
        ([1.0, 2.0, 5.0], 5.0),
        # One that was waited for is in its parent's sum by the next sample.
        ([1.0, 9.0, 1.0, 9.5], 9.5),
        # One that nobody waited for has used what it has used.
        ([1.0, 9.0, 1.0, 1.5, 2.5], 10.0),
        ([8.0, 0.0, 0.0, 7.0, 0.0, 0.0], 15.0),
    ],
)
def test_what_ended_processes_have_used_counts_once(samples, total_s):
    tally = CpuTally()
    for sample_s in samples:
        tally.add(sample_s)
    assert tally.total_s == total_s


def test_no_cores_are_no_budget():
    assert not CpuBudget(0, 900).exceeded(1e9)
    assert CpuBudget(1250, 900).exceeded(1800.1)
    assert not CpuBudget(1250, 900).exceeded(1800.0)


class _Started:
    """What a build started, as `Programs` tells it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def family(self) -> list[psutil.Process]:
        first = psutil.Process(self._pid)
        return [first, *first.children(recursive=True)]

    def running(self, family: list[psutil.Process]) -> list[psutil.Process]:
        return family


async def test_seconds_of_processes_that_nobody_waited_for_end_the_build_as_well(tmp_path, eventually):
    busy = await asyncio.create_subprocess_exec(sys.executable, "-c", _FORKS)
    programs = _Started(busy.pid)
    watch = Watch(programs, TenantFiles(None), Limits(), tmp_path)  # type: ignore[arg-type]  # the part that is asked for
    watch.step = "build"
    try:
        await eventually(lambda: _used_s(watch) > 0.9)
        programs.family()[1].kill()
        await eventually(lambda: len(programs.family()) == 1)
        busy.send_signal(signal.SIGUSR1)
        # The one that is left has used no more than a second.
        await eventually(lambda: _used_s(watch) > 1.2)
        watch.cpu = CpuBudget(500, int(watch.usage().cpu_s) - 1)
        breach = await asyncio.wait_for(watch.until_breach(), 60)
    finally:
        for process in programs.family():
            process.kill()
        await busy.wait()
    assert breach.kind == events_pb2.BUILD_FAILURE_TIMEOUT
    assert breach.step == "build"
    assert breach.reason.startswith(f"build used more CPU than the {watch.cpu.seconds} s that the build may use ")
    assert f"(1 core for {watch.cpu.timeout_s} s; " in breach.reason
    assert "do less at once" in breach.reason


def _used_s(watch: Watch) -> float:
    """Without what this process itself has used, and whatever it has waited for."""
    return watch.usage().cpu_s - sum(os.times()[:4])
