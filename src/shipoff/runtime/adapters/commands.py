"""Commands as processes of this machine, in the enclosure of the release's instances: `ports.Runner`.

A command that was to run in an instance runs beside it, with the same folder, account, variables and address. What a runtime
that was killed leaves of them carries the mark of a run in no workload, and the next one ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from asyncio.streams import FlowControlMixin
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import IO

from shipoff.runtime.adapters import proctable
from shipoff.runtime.adapters.enclosure import group_to_ask
from shipoff.runtime.adapters.feeds import Feed
from shipoff.runtime.adapters.release import Releases
from shipoff.runtime.adapters.sessions import end
from shipoff.runtime.adapters.spawning import Channels, Run, Spawner
from shipoff.runtime.domain import Command, Exited, Instance, InstanceKey, Output, Workload

# No process of a plan can be called so.
NAME = "_command"
_CHUNK_BYTES = 64 << 10
_MEASURE_S = 2.0
_POLL_S = 0.05
# Output that is left when everything of a command was ended is there at once; longer it takes only whoever reads slowly.
_DRAIN_S = 5.0
_ENDED_CODE = 124


class ProcessRunner:
    """`ports.Runner` on processes."""

    def __init__(self, spawner: Spawner, releases: Releases) -> None:
        self._spawner = spawner
        self._releases = releases

    @asynccontextmanager
    async def running(self, workload: Workload, command: Command, instance: Instance | None) -> AsyncIterator[_Process]:
        await self._releases.prepare(workload)
        key = InstanceKey(workload.deployment_id, NAME, 0, int.from_bytes(os.urandom(6), "big"))
        address = instance.endpoint if instance is not None and instance.serves else None
        channels = Channels(subprocess.PIPE if command.has_input else subprocess.DEVNULL, subprocess.PIPE, subprocess.PIPE)
        run = self._spawner.spawn(workload, key, command.argv, channels, address=address)
        process = _Process(run, self._spawner.mark_of(key), most_processes=self._spawner.options.max_processes)
        try:
            await process.open()
            yield process
        finally:
            await asyncio.shield(process.close())


class _Process:
    """`ports.Running` of one process and everything that it started."""

    def __init__(self, run: Run, mark: str, *, most_processes: int) -> None:
        self._run = run
        self._mark = mark
        self._most = most_processes
        self._feed = Feed()
        self._reason = ""
        self._input: asyncio.StreamWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Begins to read what it writes, and to watch over it."""
        child = self._run.child
        assert child is not None
        if child.stdin is not None:
            self._input = await _writer(child.stdin)
        pumps = [
            asyncio.create_task(self._pump(name, stream))
            for name, stream in (("stdout", child.stdout), ("stderr", child.stderr))
            if stream is not None
        ]
        self._tasks = [*pumps, asyncio.create_task(self._conclude(pumps)), asyncio.create_task(self._measure())]

    def events(self) -> AsyncGenerator[Output | Exited, None]:
        return self._feed.events()

    async def write(self, data: bytes) -> None:
        if self._input is None:
            return
        with contextlib.suppress(OSError):
            if data:
                self._input.write(data)
                await self._input.drain()
            else:
                self._input.close()

    async def interrupt(self) -> None:
        if self._run.ending() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(await asyncio.to_thread(group_to_ask, self._run.pid), signal.SIGINT)

    async def end(self, reason: str) -> None:
        if self._run.ending() is None:
            self._reason = self._reason or reason
            await end(self._run.pid, self._run.started, mark=self._mark)

    async def close(self) -> None:
        """Ends what is left of it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await end(self._run.pid, self._run.started, mark=self._mark)
        if self._input is not None:
            self._input.close()
        if self._run.child is not None:
            await asyncio.to_thread(self._run.child.wait)

    async def _pump(self, name: str, stream: IO[bytes]) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), stream)
        try:
            while data := await reader.read(_CHUNK_BYTES):
                await self._feed.put(Output(name, data))
        finally:
            transport.close()

    async def _conclude(self, pumps: list[asyncio.Task[None]]) -> None:
        """When it has ended: ends what it left, passes on what was written, and tells."""
        await _ended(self._run)
        await end(self._run.pid, self._run.started, mark=self._mark)
        pending: set[asyncio.Task[None]] = set(pumps)
        while pending:
            _, pending = await asyncio.wait(pending, timeout=_DRAIN_S)
            if pending and not self._feed.is_full:
                break
        code = self._run.code() or 0
        if self._reason:
            await self._feed.put(Exited(_ENDED_CODE, self._reason))
        else:
            await self._feed.put(Exited(128 - code if code < 0 else code))

    async def _measure(self) -> None:
        while True:
            await asyncio.sleep(_MEASURE_S)
            processes = await asyncio.to_thread(proctable.table)
            excess = await asyncio.to_thread(self._run.excess_in, processes, most=self._most)
            if excess:
                await self.end(excess)


async def _writer(stream: IO[bytes]) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(lambda: FlowControlMixin(loop), stream)
    return asyncio.StreamWriter(transport, protocol, None, loop)


async def _ended(run: Run) -> None:
    """Returns when the process has ended: told by the kernel, where it can tell."""
    loop = asyncio.get_running_loop()
    try:
        descriptor = os.pidfd_open(run.pid)
    except (AttributeError, OSError):
        descriptor = -1
    if descriptor >= 0:
        told = asyncio.Event()
        loop.add_reader(descriptor, told.set)
        try:
            await told.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
    while run.ending() is None:  # noqa: ASYNC110 - the fallback of systems that tell nothing
        await asyncio.sleep(_POLL_S)
