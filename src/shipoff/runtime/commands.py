"""The use case of CommandService: one command in a release that runs, within limits. Called by commands_server."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import structlog

from shipoff.common.errors import Exhausted, InvalidInput, NotFound, PreconditionFailed
from shipoff.runtime.domain import WEB, Command, Instance, InstanceState, Workload
from shipoff.runtime.ports import Runner, Running, Store

log = structlog.get_logger()


@dataclass(frozen=True)
class Commands:
    """What runs commands, so many at one time for each project and in all."""

    store: Store
    runner: Runner
    each: int = 4
    in_all: int = 16
    _held: Counter[str] = field(default_factory=Counter)

    @asynccontextmanager
    async def running(self, deployment_id: str, command: Command) -> AsyncIterator[Running]:
        """The command, started; it is ended when it takes too long, and when the block is left.

        Raises NotFound, PreconditionFailed where nothing runs that it could run in, Exhausted when too many run.
        """
        stored = await self.store.load(deployment_id)
        if stored is None:
            raise NotFound(f"nothing of deployment {deployment_id} runs", remedy="files have no place to run a command in")
        workload, instances = stored
        if not workload.wanted or not workload.was_ready:
            raise PreconditionFailed(f"the workload is {workload.phase}", remedy="deploy it again")
        _check(command)
        instance = chosen(workload, instances, command.within) if command.within else None
        fields = {"deployment_id": deployment_id, "program": command.argv[0]}
        with self._slot(workload.project_id):
            async with self.runner.running(workload, command, instance) as running:
                log.info("command started", **fields)
                limit = asyncio.create_task(_limit(running, command.limit_s), name="limit of a command")
                try:
                    yield running
                finally:
                    limit.cancel()
                    log.info("command ended", **fields)

    @contextmanager
    def _slot(self, project_id: str) -> Iterator[None]:
        if self._held[project_id] >= self.each or self._held.total() >= self.in_all:
            raise Exhausted("too many commands run at the same time", retry_after_s=5.0, remedy="wait until one has ended")
        self._held[project_id] += 1
        try:
            yield
        finally:
            self._held[project_id] -= 1
            if not self._held[project_id]:
                del self._held[project_id]


def chosen(workload: Workload, instances: Sequence[Instance], place: tuple[str, int]) -> Instance:
    """The running instance of that process and number. Raises NotFound naming those that there are, PreconditionFailed."""
    names = [one.name for one in workload.runnable]
    process = place[0] or (WEB if WEB in names else names[0])
    runs = [one for one in instances if one.state in (InstanceState.READY, InstanceState.STARTING)]
    found = [one for one in runs if one.key.slot == (process, place[1])]
    if found:
        return max(found, key=lambda one: (one.state is InstanceState.READY, one.key.incarnation))
    there = ", ".join(sorted({f"{one.key.process}.{one.key.index}" for one in runs}))
    if not there:
        raise PreconditionFailed("no instance runs just now", remedy="run it beside them: shipoff run")
    raise NotFound(f"there is no instance {process}.{place[1]}", field="instance", remedy=f"there are {there}")


def _check(command: Command) -> None:
    if not command.argv[0] or any("\0" in part for part in command.argv):
        raise InvalidInput("a command begins with a program's name, and holds no NUL", field="command")


async def _limit(running: Running, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await running.end(f"it took longer than its {seconds:g} s")
