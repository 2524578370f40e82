"""Runs what releases have scheduled, where nothing else does: on one machine. On a cluster its CronJobs do.

A time that has come is claimed in the database before it is run, so that it is run once at most, whoever dies meanwhile; and
of the times that nobody was there for, one run stands for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from shipoff.common.errors import ShipoffError
from shipoff.common.lifecycle import looping
from shipoff.runtime.commands import limited
from shipoff.runtime.domain import Workload
from shipoff.runtime.executions import Command, Exited
from shipoff.runtime.ports import Runner, ScheduleLogs, ScheduleStore
from shipoff.runtime.schedules import Schedule, is_due, outcome

LIMIT_S = 3600.0
_LOOK_S = 1.0

log = structlog.get_logger()


class Scheduler:
    """What looks after the schedules of every workload of this runtime."""

    def __init__(self, store: ScheduleStore, runner: Runner, logs: ScheduleLogs, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._runner = runner
        self._logs = logs
        self._clock = clock
        # By project, environment and name: the next time waits for nobody, and is left out while one runs.
        self._runs: dict[tuple[str, str, str], asyncio.Task[None]] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Looks after them beside the block; on leaving, what runs of them is ended."""
        await self._store.runs_were_lost()
        try:
            async with looping("run schedules", self.look, every_s=_LOOK_S):
                yield
        finally:
            for task in self._runs.values():
                task.cancel()
            await asyncio.gather(*self._runs.values(), return_exceptions=True)

    async def look(self) -> None:
        """Begins what is due."""
        for workload in await self._store.scheduled():
            known = await self._store.runs(workload)
            for schedule in workload.schedules:
                run = known.get(schedule.name)
                if run is None:
                    await self._store.begin(workload, schedule.name, now=self._clock())
                elif is_due(schedule, run, self._clock()):
                    await self._take(workload, schedule, seen_at=run.seen_at)

    async def _take(self, workload: Workload, schedule: Schedule, *, seen_at: float) -> None:
        key = (workload.project_id, workload.environment, schedule.name)
        now = self._clock()
        busy = key in self._runs
        if not await self._store.claim(workload, schedule.name, seen_at=seen_at, now=now, runs=not busy):
            return
        fields = {"deployment_id": workload.deployment_id, "schedule": schedule.name}
        if busy:
            log.info("schedule left out: its last run has not ended", **fields)
            return
        task = asyncio.create_task(self._run(workload, schedule, int(now)), name=f"schedule {schedule.name}")
        self._runs[key] = task
        task.add_done_callback(lambda _: self._runs.pop(key, None))
        log.info("schedule runs", **fields)

    async def _run(self, workload: Workload, schedule: Schedule, number: int) -> None:
        ended = "failed: the platform was stopped"
        try:
            ended = await self._outcome(workload, schedule, number)
        except ShipoffError as error:
            ended = f"failed: {error.message}"
        except Exception:
            ended = "failed: an internal error"
            log.exception("schedule not run", deployment_id=workload.deployment_id, schedule=schedule.name)
        finally:
            await asyncio.shield(self._store.ended(workload, schedule.name, ended))
            log.info("schedule ended", deployment_id=workload.deployment_id, schedule=schedule.name, outcome=ended)

    async def _outcome(self, workload: Workload, schedule: Schedule, number: int) -> str:
        command = Command(schedule.argv, LIMIT_S)
        with self._logs.opened(workload, schedule.name, number) as write:
            async with self._runner.running(workload, command, None) as running, limited(running, LIMIT_S):
                async for event in running.events():
                    if isinstance(event, Exited):
                        return outcome(event.code, event.reason)
                    await asyncio.to_thread(write, event.channel, event.data)
        return "failed: it ended without a word"
