"""Runs programs under the tenant's account: argument lists only, never a shell; output goes to the log, line by line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from subprocess import DEVNULL, PIPE

import psutil

from shipoff.builder.assignment import Assignment
from shipoff.builder.enclosure import Enclosure, Program
from shipoff.builder.journal import Journal
from shipoff.builder.lines import LineSplitter
from shipoff.common.processes import moves

_CHUNK_BYTES = 64 << 10
_KILL_ROUNDS = 200
_KILL_PAUSE_S = 0.02
# So many turns of stopping come before one of killing.
_STOP_TURNS = 20


class _Pipe:
    """A pipe to read a program's output from.

    asyncio's own would make wait() last until everybody who inherited them has closed them.
    """

    def __enter__(self) -> _Pipe:
        self._read, self.end = os.pipe()
        self._transport: asyncio.ReadTransport | None = None
        return self

    async def reader(self) -> asyncio.StreamReader:
        """The end to read, once the program has its own: this process keeps no other open."""
        os.close(self.end)
        self.end = -1
        reader = asyncio.StreamReader(limit=_CHUNK_BYTES)
        loop = asyncio.get_running_loop()
        file = os.fdopen(self._read, "rb", 0)
        self._transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
        return reader

    def __exit__(self, *_: object) -> None:
        if self.end != -1:
            os.close(self.end)
        if self._transport is not None:
            self._transport.close()
        else:
            os.close(self._read)


class Programs:
    """Starts programs, and knows everything that came of them."""

    def __init__(self, journal: Journal, assignment: Assignment) -> None:
        self._journal = journal
        self._limits = assignment.limits
        self._enclosure = Enclosure(assignment)
        self._awaited: set[int] = set()
        # While above zero there may be a child whose id is not known yet.
        self._starting = 0

    async def run(self, program: Program, *, quiet: bool = False) -> int:
        """Runs it to its end, and ends what it left behind; the exit code, or minus the signal that killed it.

        Its output becomes log lines; where `quiet`, only what it writes to standard error. Raises FileNotFoundError when
        there is no such program.
        """
        with _Pipe() as out, _Pipe() as err:
            async with self._started(program, stdout=DEVNULL if quiet else out.end, stderr=err.end) as process:
                readers = [
                    asyncio.create_task(self._read(await out.reader(), "stdout")),
                    asyncio.create_task(self._read(await err.reader(), "stderr")),
                ]
                try:
                    code = self._enclosure.exit_code(await process.wait())
                    # What still runs in the background would hold the pipes open.
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.killpg(process.pid, signal.SIGKILL)
                    await self.kill_all()
                    await asyncio.gather(*readers)
                finally:
                    for reader in readers:
                        reader.cancel()
                return code

    async def output(self, program: Program) -> str:
        """Runs a short program of the platform's own and gives what it wrote; empty when it failed."""
        async with self._started(program, stdout=PIPE, stderr=DEVNULL) as process:
            written, _ = await process.communicate()
            return written.decode(errors="replace").strip() if process.returncode == 0 else ""

    @asynccontextmanager
    async def _started(self, program: Program, *, stdout: int, stderr: int) -> AsyncIterator[asyncio.subprocess.Process]:
        """A child of the tenant's account in a session of its own."""

        async def start() -> asyncio.subprocess.Process:
            with self._enclosure.around(program) as (argv, options):
                return await asyncio.create_subprocess_exec(
                    *argv, stdin=DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True, **options
                )

        async with self._child(start) as process:
            yield process

    @asynccontextmanager
    async def own(self, program: Program, *, stdout: int, stderr: int) -> AsyncIterator[asyncio.subprocess.Process]:
        """A child of this process's own account, outside the sandbox: a program of the platform's. Raises OSError."""

        async def start() -> asyncio.subprocess.Process:
            return await asyncio.create_subprocess_exec(
                *program.argv, cwd=program.folder, env=dict(program.environment), stdin=DEVNULL, stdout=stdout, stderr=stderr,
                start_new_session=True,
            )  # fmt: skip

        async with self._child(start) as process:
            yield process

    @asynccontextmanager
    async def _child(
        self, start: Callable[[], Awaitable[asyncio.subprocess.Process]]
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """What starts, as long as it is used: nobody but asyncio waits for it."""
        self._starting += 1
        try:
            process = await start()
            self._awaited.add(process.pid)
        finally:
            self._starting -= 1
        try:
            yield process
        finally:
            self._awaited.discard(process.pid)

    async def _read(self, stream: asyncio.StreamReader, channel: str) -> None:
        splitter = LineSplitter(self._journal.masker)
        while chunk := await stream.read(_CHUNK_BYTES):
            await self._journal.output(splitter.feed(chunk), channel=channel, size=len(chunk))
            # Paced, so that a program that only prints costs next to nothing.
            await asyncio.sleep(len(chunk) / self._limits.output_bytes_per_s)
        await self._journal.output(splitter.end(), channel=channel, size=0)

    @staticmethod
    def family() -> list[psutil.Process]:
        """Every process that came of what was started, zombies among them; parents come before their children."""
        return psutil.Process().children(recursive=True)

    def running(self, family: Sequence[psutil.Process] | None = None) -> list[psutil.Process]:
        """Those of the family, which is asked for where it is not given, that are no zombies. Reaps orphans that have ended."""
        alive = []
        for process in self.family() if family is None else family:
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE:
                    alive.append(process)
                elif not self._starting and process.pid not in self._awaited and process.ppid() == os.getpid():
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(process.pid, os.WNOHANG)
        return alive

    async def kill_all(self) -> bool:
        """Kills everything that was started and whatever came of it; whether nothing is left."""
        for turn in range(_KILL_ROUNDS):
            processes = self.running()
            if not processes:
                return True
            # Nobody is killed before all are stopped: who is stopped forks no more and keeps its place within the account's
            # limit, so that a fork bomb runs out of room. What cannot be stopped does not hold up the rest for ever.
            moving = [process for process in processes if moves(process)] if turn % _STOP_TURNS else processes[:0]
            for process in moving or processes:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGSTOP if moving else signal.SIGKILL)
            await asyncio.sleep(0 if moving else _KILL_PAUSE_S)
        return False
