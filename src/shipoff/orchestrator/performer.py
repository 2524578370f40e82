"""Performs instructions: claims them under a lease, does what they say outside, records what came of it.

Each looks at the stored deployment first and does nothing where that wants something else by now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from shipoff.common.errors import Aborted, NotFound, PermanentError, TemporaryError
from shipoff.common.lifecycle import background
from shipoff.orchestrator import handlers
from shipoff.orchestrator.domain import (
    TERMINAL,
    BuildFailed,
    Event,
    Instruction,
    ProvisionFailed,
    ReleasePublished,
    RouteSwitched,
    RouteTaken,
    State,
)
from shipoff.orchestrator.ports import Outside, Store
from shipoff.orchestrator.records import Record, Task

_AT_ONCE = 16
_LONGEST_DELAY_S = 15.0
log = structlog.get_logger()


@dataclass(frozen=True)
class Terms:
    """How long a build may take, and how long an instruction is held."""

    build_timeout_s: int
    lease_s: float


class Performer:
    """The shell around the decisions."""

    def __init__(self, store: Store, outside: Outside, terms: Terms, *, wake: Callable[[], None]) -> None:
        self._store = store
        self._outside = outside
        self._terms = terms
        self._wake = wake
        self._running: set[asyncio.Task[None]] = set()
        self._actions: dict[Instruction, Callable[[Record, Task], Awaitable[Event | None]]] = {
            Instruction.START_BUILD: self._start_build,
            Instruction.CANCEL_BUILD: self._cancel_build,
            Instruction.PROVISION: self._provision,
            Instruction.SWITCH_ROUTE: self._switch_route,
            Instruction.STOP_WORKLOAD: self._stop_workload,
            Instruction.SCALE_WORKLOAD: self._scale_workload,
            Instruction.RESTORE_ROUTE: self._restore_route,
            Instruction.REMOVE_ROUTE: self._remove_route,
            Instruction.PUT_BACK: self._put_back,
        }

    async def perform_due(self) -> None:
        """Claims what is due and starts it, as long as there is room for more at once."""
        while len(self._running) < _AT_ONCE:
            tasks = await self._store.claim(limit=_AT_ONCE - len(self._running), lease_s=self._terms.lease_s)
            if not tasks:
                return
            for task in tasks:
                running = asyncio.create_task(self._perform(task), name=f"{task.instruction} {task.deployment_id}")
                self._running.add(running)
                running.add_done_callback(self._running.discard)

    async def drain(self, grace_s: float = 5.0) -> None:
        """Waits for what runs, then lets go of it; another process takes it over after the lease."""
        if not self._running:
            return
        _, late = await asyncio.wait(self._running, timeout=grace_s)
        for running in late:
            running.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _perform(self, task: Task) -> None:
        async with background("lease", lambda: self._hold(task)):
            try:
                await handlers.conclude(self._store, task, await self._act(task))
            except Aborted as error:
                log.info("instruction lost", instruction=task.instruction, deployment=task.deployment_id, error=str(error))
            except TemporaryError as error:
                delay_s = min(max(0.2 * 2 ** min(task.tries, 10), error.retry_after_s), _LONGEST_DELAY_S)
                log.info("instruction waits", instruction=task.instruction, deployment=task.deployment_id, error=str(error))
                await self._put_off(task, delay_s)
            except Exception:
                log.exception("instruction failed", instruction=task.instruction, deployment=task.deployment_id)
                await self._put_off(task, _LONGEST_DELAY_S)
        # There may be more than could be taken at once.
        self._wake()

    async def _put_off(self, task: Task, delay_s: float) -> None:
        await self._store.put_off(task, delay_s)
        asyncio.get_running_loop().call_later(delay_s, self._wake)

    async def _hold(self, task: Task) -> None:
        """Renews the lease while the instruction takes longer than expected; most are done before the first time."""
        while True:
            await asyncio.sleep(self._terms.lease_s / 3)
            await self._store.renew(task, self._terms.lease_s)

    async def _act(self, task: Task) -> Event | None:
        record = await self._store.record(task.deployment_id)
        return await self._actions[task.instruction](record, task) if record else None

    async def _start_build(self, record: Record, task: Task) -> Event | None:
        now = record.deployment
        if now.state is not State.BUILDING or now.attempt != task.attempt or now.awaits_slot:
            return None
        try:
            await self._outside.start_build(record, limits=record.deployment.slot, timeout_s=self._terms.build_timeout_s)
        except PermanentError as error:
            return BuildFailed(task.attempt, f"the build could not be started: {error.message}")
        return None

    async def _cancel_build(self, record: Record, task: Task) -> Event | None:
        try:
            await self._outside.cancel_build(record.deployment.id, task.attempt)
        except NotFound:
            return None
        return None

    async def _provision(self, record: Record, _: Task) -> Event | None:
        if record.deployment.state is not State.PROVISIONING:
            return None
        try:
            if record.deployment.static:
                await self._outside.publish(record)
                return ReleasePublished()
            await self._outside.apply_workload(record)
        except PermanentError as error:
            return ProvisionFailed(error.message)
        await self._stop_if_called_off(record.deployment.id)
        return None

    async def _stop_if_called_off(self, deployment_id: str) -> None:
        """A stop that was performed while the workload was being applied found nothing to stop."""
        record = await self._store.record(deployment_id)
        if record is not None and record.deployment.state in TERMINAL:
            await self._outside.stop_workload(deployment_id)

    async def _switch_route(self, record: Record, _: Task) -> Event | None:
        now = record.deployment
        if now.state not in (State.PROVISIONING, State.PRODUCTION):
            return None
        serving = await self._store.serving(now.project_id, now.environment)
        if serving is not None and serving.deployment.number > now.number:
            return RouteTaken()
        try:
            await self._point_at(record)
        except Aborted:
            return RouteTaken()
        except PermanentError as error:
            return ProvisionFailed(error.message)
        return RouteSwitched(now.revision)

    async def _point_at(self, record: Record) -> None:
        async with self._store.begin() as work:
            fence = await work.next_fence(record.deployment)
        await self._outside.set_route(record, fence)

    async def _restore_route(self, record: Record, _: Task) -> Event | None:
        """Undoes a switch whose record did not happen: the deployment was called off in between."""
        now = record.deployment
        serving = await self._store.serving(now.project_id, now.environment)
        if serving is None:
            await self._outside.remove_route(now)
            return None
        async with self._store.begin() as work:
            await work.next_fence(now, call_off=True)
        try:
            await self._point_at(serving)
        except Aborted:
            return None
        return None

    async def _scale_workload(self, record: Record, _: Task) -> Event | None:
        if record.deployment.state is State.PRODUCTION:
            await self._outside.scale_workload(record.deployment.id, record.deployment.replicas)
        return None

    async def _stop_workload(self, record: Record, _: Task) -> Event | None:
        await self._outside.stop_workload(record.deployment.id)
        return None

    async def _put_back(self, record: Record, _: Task) -> Event | None:
        async with self._store.begin() as work:
            await handlers.put_back(work, record.deployment.project_id, record.deployment.id)
        return None

    async def _remove_route(self, record: Record, _: Task) -> Event | None:
        await self._outside.remove_route(record.deployment)
        return None
