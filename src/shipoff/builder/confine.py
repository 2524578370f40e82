"""What this process gives up for itself and everything it starts, and the thread that touches the tenant's files.

Linux calls are made through ctypes: prctl(2), setfsuid(2). Elsewhere what the system lacks is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path
from typing import ParamSpec, TypeVar

import psutil

from shipoff.builder.assignment import Limits

_P = ParamSpec("_P")
_T = TypeVar("_T")

# linux/prctl.h
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
# Behind the polite priority of the platform itself.
_NICE = 10
_OOM_SCORE = "800"
# Tasks an account may have at once, beyond twice a build's processes: a backstop that bounds a fork bomb between two samples.
_TASKS = 1024


def confine(limits: Limits, *, uid: int | None) -> None:
    """Limits this process for good; what it starts inherits all of it.

    No core files, no new privileges (setuid programs), no file beyond the disk limit; nobody can attach to
    this process or read its memory; orphans of its children become its own.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        for option, value in ((_PR_SET_DUMPABLE, 0), (_PR_SET_CHILD_SUBREAPER, 1), (_PR_SET_NO_NEW_PRIVS, 1)):
            if libc.prctl(option, value, 0, 0, 0) != 0:
                raise OSError(ctypes.get_errno(), f"prctl({option})")
    if uid is not None:
        os.setgroups([])
        _limit(resource.RLIMIT_NPROC, _TASKS + 2 * limits.processes)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, limits.disk_bytes)
    if sys.platform == "linux":
        # Before the platform and the apps, should the machine itself run out of memory (proc_pid_oom_score_adj(5)).
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    os.umask(0o022)


def stand_back() -> None:
    """From here on this thread and what it starts come behind the platform in priority.

    Not before there is a job: a builder that has to wait for the processor until it can say hello holds up its slot.
    """
    os.nice(_NICE)


def hold_to_cores(cpu_millis: int) -> None:
    """Holds this process and everything it starts to the cores reserved, rounded up, the idlest ones; 0 reserves none.

    Linux only (sched_setaffinity(2)): macOS has no such call. A program may undo it, which the sum of CPU seconds that `Watch`
    keeps answers.
    """
    if sys.platform != "linux" or not cpu_millis:
        return
    available = os.sched_getaffinity(0)
    count = ceil(cpu_millis / 1000)
    if count >= len(available):
        return
    # Since psutil was loaded: how busy each core was while this program started.
    busy = dict(enumerate(psutil.cpu_percent(percpu=True)))
    cores = sorted(available, key=lambda core: busy.get(core, 0.0))[:count]
    # It holds for one thread and what that one starts: those that run already are asked one by one.
    for thread in psutil.Process().threads():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(thread.id, cores)


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def _take_account(uid: int | None) -> None:
    """Gives the calling thread the tenant's rights on files, and no others (setfsuid(2): capabilities go with it)."""
    if uid is None:
        return
    if sys.platform != "linux":
        raise OSError("builds as root need Linux: start the platform as an ordinary user")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.setfsgid(uid)
    libc.setfsuid(uid)
    # The call reports the former value only: ask again to see whether it was taken.
    if libc.setfsuid(-1) != uid:
        raise OSError(f"cannot take the rights of account {uid}")


class TenantFiles:
    """Runs functions in a thread that has the tenant's rights on files: a link to somebody else's file opens nothing."""

    def __init__(self, uid: int | None) -> None:
        self._executor = ThreadPoolExecutor(1, "files", initializer=_take_account, initargs=(uid,))

    async def run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Calls the function there. Only one runs at a time."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: function(*args, **kwargs))
