"""A server as a child process: started under its account, bound to the platform's life, stopped only when it is itself.

Its pid file names the process by pid and start time, so that a later platform can end what an earlier one left, and
never signals a stranger that got the same pid.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from shipoff.common.errors import Unavailable
from shipoff.embedded import launch
from shipoff.embedded.layout import Account, write_private

_LOG_BYTES = 10 << 20
# Start times are computed from the boot time, which an adjusted clock moves.
_START_TOLERANCE_S = 2.0
_LEFTOVER_S = 20.0
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "TZ": "UTC"}


@dataclass(frozen=True)
class Program:
    """What to run and how to end it."""

    name: str
    argv: tuple[str, ...]
    pid_file: Path
    log_file: Path
    account: Account | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: _ENVIRONMENT)
    stop_signal: signal.Signals = signal.SIGTERM
    # A server that has not ended after this is killed.
    stop_timeout_s: float = 20.0


def environment(**more: str) -> dict[str, str]:
    """A small environment of known values, and these."""
    return {**_ENVIRONMENT, **more}


def leftover(pid_file: Path) -> psutil.Process | None:
    """The process that an earlier platform started and left running, if it verifiably is that one."""
    try:
        record = json.loads(pid_file.read_text())
        process = psutil.Process(int(record["pid"]))
        same_start = abs(process.create_time() - float(record["started"])) < _START_TOLERANCE_S
        command = Path(record["command"]).name
        same_command = command in (process.name(), *(Path(part).name for part in process.cmdline()[:1]))
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None
    return process if same_start and same_command else None


async def end_leftovers(folder: Path) -> list[str]:
    """Ends everything that the pid files in this folder verifiably name; the names."""
    ended = []
    for pid_file in _pid_files(folder):
        if (process := leftover(pid_file)) is not None:
            await end(process, number=_stop_signal(pid_file), timeout_s=_LEFTOVER_S)
            ended.append(pid_file.stem)
        pid_file.unlink(missing_ok=True)
    return ended


def _pid_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.pid"))


def _stop_signal(pid_file: Path) -> signal.Signals:
    return signal.Signals(int(json.loads(pid_file.read_text())["stop_signal"]))


async def end(process: psutil.Process, *, number: signal.Signals, timeout_s: float) -> None:
    """Ends a process that is not our child: asks, waits, kills."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)
        if not await _gone(process, timeout_s):
            process.kill()
            await _gone(process, timeout_s)


async def _gone(process: psutil.Process, timeout_s: float) -> bool:
    deadline = asyncio.get_running_loop().time() + timeout_s
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


class Child:
    """A program that runs."""

    def __init__(self, program: Program, process: asyncio.subprocess.Process) -> None:
        self.program = program
        self._process = process

    @classmethod
    async def start(cls, program: Program) -> Child:
        """Starts it, after ending what an earlier platform left of it.

        It is in a session of its own: a Ctrl-C at the terminal reaches the platform only, which stops it in order.
        """
        if (stale := leftover(program.pid_file)) is not None:
            await end(stale, number=program.stop_signal, timeout_s=program.stop_timeout_s)
        account = program.account
        uid, gid = (account.uid, account.gid) if account else (-1, -1)
        # Isolated and without site: it starts in 15 ms and reads nothing of the caller's environment.
        become = [sys.executable, "-I", "-S", launch.__file__, *map(str, (uid, gid, program.stop_signal.value, os.getpid()))]
        with opened_log(program.log_file) as log:
            process = await asyncio.create_subprocess_exec(
                *become,
                *program.argv,
                env=dict(program.environment),
                cwd="/",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        child = cls(program, process)
        child._record()
        return child

    def _record(self) -> None:
        try:
            started = psutil.Process(self.pid).create_time()
        except psutil.NoSuchProcess:
            return
        record = {
            "pid": self.pid,
            "started": started,
            "command": self.program.argv[0],
            "stop_signal": self.program.stop_signal.value,
        }
        write_private(self.program.pid_file, json.dumps(record))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def wait(self) -> int:
        """Waits for its end; the exit code, or the negative number of the signal."""
        return await self._process.wait()

    async def stop(self) -> None:
        """Ends it and waits: asks first, kills after the program's timeout."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(self.program.stop_signal)
            try:
                await asyncio.wait_for(self._process.wait(), self.program.stop_timeout_s)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                await self._process.wait()
        self.program.pid_file.unlink(missing_ok=True)

    def check(self) -> None:
        """Raises Unavailable with the end of its log when it has ended."""
        if not self.running:
            code = self._process.returncode
            raise Unavailable(
                f"{self.program.name} ended with code {code} while starting: {tail(self.program.log_file, lines=5)}",
                remedy=f"its log is {self.program.log_file}",
            )


def opened_log(path: Path) -> IO[bytes]:
    """The log for appending; one that has grown is set aside first."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > _LOG_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))
    return path.open("ab")


def tail(path: Path, *, lines: int) -> str:
    """The last lines of a log file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16384))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
