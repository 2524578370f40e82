"""Sessions of processes: how they end, and that nothing of them is left. And the lock that lets one runtime own them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from shipoff.common.errors import PreconditionFailed
from shipoff.runtime.adapters import proctable

# In the environment of everything that an instance starts: names the platform's folder and the run.
MARK = "SHIPOFF_INSTANCE"
_KILL_ROUNDS = 100
_KILL_PAUSE_S = 0.02
_LOCK_WAIT_S = 15.0

log = structlog.get_logger()


def exit_words(code: int) -> str:
    """An exit status as people say it."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"killed by signal {-code} ({signal.Signals(-code).name})"
    return f"killed by signal {-code}"


async def end(pid: int, started: str, *, mark: str) -> None:
    """Kills a session with all its descendants, again and again until none is left: a fork bomb makes new ones meanwhile.

    Those that have left the session are known by the mark in their environment.
    """
    for _ in range(_KILL_ROUNDS):
        processes = await asyncio.to_thread(proctable.table)
        doomed = set(proctable.tree(pid, started, processes))
        doomed |= set(await asyncio.to_thread(_marked_exactly, mark))
        if not doomed:
            return
        for one in doomed:
            send(one, signal.SIGKILL)
        await asyncio.sleep(_KILL_PAUSE_S)
    log.warning("processes would not end", session=pid)


def _marked_exactly(mark: str) -> list[int]:
    return [entry.pid for entry, value in proctable.marked(MARK, mark) if value == mark]


def send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


@asynccontextmanager
async def alone(path: Path) -> AsyncIterator[None]:
    """Holds the lock of the apps' folder; waits for one who is leaving. Raises PreconditionFailed when another stays."""
    # Closing the file releases it, and so does the end of the process, however it comes.
    with path.open("w") as file:
        deadline = asyncio.get_running_loop().time() + _LOCK_WAIT_S
        while not _locked(file.fileno()):
            if asyncio.get_running_loop().time() > deadline:
                raise PreconditionFailed(f"another runtime holds {path}", remedy="stop the other one first")
            await asyncio.sleep(0.1)
        yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
