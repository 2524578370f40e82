"""Watches what a build uses, and ends it when it is too much."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from shipoff.builder.assignment import BuildError, Kind, Limits
from shipoff.builder.confine import TenantFiles
from shipoff.builder.cpu import CpuBudget, CpuTally, sample
from shipoff.builder.programs import Programs
from shipoff.common.amounts import counted
from shipoff.contracts.types.v1 import types_pb2

_SAMPLE_S = 0.25
_DISK_EVERY_S = 2.0
# A measurement of the disk may take this part of the time between two.
_DISK_SHARE = 10
_FILES = 1_000_000


class Watch:
    """Samples memory, CPU and processes four times a second, the work folder every other second."""

    def __init__(self, programs: Programs, files: TenantFiles, limits: Limits, folder: Path) -> None:
        self._programs = programs
        self._files = files
        self._limits = limits
        self._folder = folder
        self.memory_limit = limits.memory_bytes
        self.memory_bytes = 0
        self.peak_memory_bytes = 0
        self.cpu = CpuBudget(0, 0)
        self.step = ""
        self._tally = CpuTally()
        self._started = time.monotonic()

    def usage(self) -> types_pb2.Usage:
        """What the build has used so far, this process included."""
        self._tally.add(sample(self._programs.family()))
        return types_pb2.Usage(
            peak_memory_bytes=self.peak_memory_bytes,
            cpu_s=self._tally.total_s,
            wall_s=time.monotonic() - self._started,
        )

    async def until_breach(self) -> BuildError:
        """Returns when a limit is broken, and which; never otherwise."""
        next_disk = 0.0
        while True:
            family = self._programs.family()
            self._tally.add(sample(family))
            processes = self._programs.running(family)
            breach = await self._memory(processes) or self._count(processes) or self._cpu()
            if breach is None and time.monotonic() >= next_disk:
                began = time.monotonic()
                breach = await self._disk()
                took = time.monotonic() - began
                next_disk = began + max(_DISK_EVERY_S, took * _DISK_SHARE)
            if breach is not None:
                return breach
            await asyncio.sleep(_SAMPLE_S)

    async def _memory(self, processes: Sequence[psutil.Process]) -> BuildError | None:
        resident = sum(_resident(process) for process in processes)
        self.memory_bytes = resident
        # Pages that several processes share count once, but that costs more to find out.
        if resident > self.peak_memory_bytes:
            self.memory_bytes = await self._files.run(_proportional_sum, processes)
        self.peak_memory_bytes = max(self.peak_memory_bytes, self.memory_bytes)
        if self.memory_bytes <= self.memory_limit:
            return None
        return BuildError(
            Kind.BUILD_FAILURE_OUT_OF_MEMORY,
            f"{self.step or 'the build'} needed more memory than the {self.memory_limit >> 20} MiB it may use "
            f"(it had {self.memory_bytes >> 20} MiB) and was killed",
            step=self.step,
        )

    def _count(self, processes: Sequence[psutil.Process]) -> BuildError | None:
        if len(processes) <= self._limits.processes:
            return None
        return BuildError(
            Kind.BUILD_FAILURE_PROCESSES,
            f"{self.step or 'the build'} started more than {self._limits.processes} processes: does it start itself?",
            step=self.step,
        )

    def _cpu(self) -> BuildError | None:
        used_s = self._tally.total_s
        if not self.cpu.exceeded(used_s):
            return None
        return BuildError(
            Kind.BUILD_FAILURE_TIMEOUT,
            f"{self.step or 'the build'} used more CPU than the {self.cpu.seconds} s that the build may use "
            f"({counted(self.cpu.cores, 'core')} for {self.cpu.timeout_s} s; it used {used_s:.0f} s) and was ended: "
            "have it stay on the cores that it is given, and do less at once",
            step=self.step,
        )

    async def check_disk(self) -> None:
        """Raises BuildError now where a sample would do so in a moment: what ends sooner is held to its share all the same."""
        breach = await self._disk()
        if breach is not None:
            raise breach

    async def _disk(self) -> BuildError | None:
        size, count = await self._files.run(folder_size, self._folder)
        problem = ""
        if size > self._limits.disk_bytes:
            problem = f"filled more than the {self._limits.disk_bytes >> 20} MiB of disk it may use"
        elif count > _FILES:
            problem = f"made more than {_FILES} files"
        elif shutil.disk_usage(self._folder).free < self._limits.free_bytes:
            problem = "was stopped because the machine's disk is full: free some room, then deploy again"
        return self.disk_breach(problem) if problem else None

    def out_of_memory(self) -> BuildError:
        """The kernel killed the build: the machine itself had no memory left."""
        had = f"it had {self.peak_memory_bytes >> 20} MiB"
        reason = f"{self.step or 'the build'} was killed because the machine ran out of memory ({had})"
        return BuildError(Kind.BUILD_FAILURE_OUT_OF_MEMORY, reason, step=self.step)

    def disk_breach(self, problem: str) -> BuildError:
        """The build ended for want of room."""
        return BuildError(Kind.BUILD_FAILURE_DISK, f"{self.step or 'the build'} {problem}", step=self.step)


def machine_kills() -> int:
    """How often the kernel has killed something for want of memory (proc(5), /proc/vmstat); zero where it does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _resident(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


def _proportional_sum(processes: Sequence[psutil.Process]) -> int:
    """In the tenant's thread: root may not look into others' processes in every container."""
    return sum(_proportional(process) for process in processes)


def _proportional(process: psutil.Process) -> int:
    """PSS: shared pages divided among those who share them (proc_pid_smaps(5)); RSS where the system cannot tell."""
    try:
        with open(f"/proc/{process.pid}/smaps_rollup", "rb") as file:  # noqa: PTH123 - half the cost of Path.open
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass
    return _resident(process)


def folder_size(folder: Path) -> tuple[int, int]:
    """Bytes on disk and number of entries below a folder; links are not followed, what vanishes meanwhile counts nothing."""
    size = count = 0
    waiting = [str(folder)]
    while waiting:
        try:
            entries = os.scandir(waiting.pop())
        except OSError:
            continue
        with entries:
            for entry in entries:
                count += 1
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    # Hard links into the cache share their blocks with it.
                    size += status.st_blocks * 512 // max(1, status.st_nlink)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
    return size, count
