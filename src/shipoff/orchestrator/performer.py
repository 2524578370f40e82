"""Performs instructions: claims them under a lease, does what they say outside, records what came of it.

Each looks at the stored deployment first and does nothing where that wants something else by now.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

import structlog

from shipoff.common.batching import Batcher
from shipoff.common.errors import Aborted, NotFound, PermanentError, TemporaryError
from shipoff.common.lifecycle import looping
from shipoff.common.telemetry import take_on
from shipoff.orchestrator import handlers
from shipoff.orchestrator.domain import (
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
from shipoff.orchestrator.records import Held, Task, fence

_AT_ONCE = 64
_LONGEST_DELAY_S = 15.0
# What leads to nothing is recorded together with others a moment later: nobody waits for it.
_RECORDED_WITHIN_S = 0.2
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
        self._running: dict[asyncio.Task[None], Task] = {}
        self._draining = False
        self._conclude = Batcher(partial(handlers.conclude, store), most=_AT_ONCE)
        self._performed: list[Held] = []
        self._record = asyncio.Event()
        self._actions: dict[Instruction, Callable[[Held], Awaitable[Event | None]]] = {
            Instruction.START_BUILD: self._start_build,
            Instruction.CANCEL_BUILD: self._cancel_build,
            Instruction.PROVISION: self._provision,
            Instruction.SWITCH_ROUTE: self._switch_route,
            Instruction.STOP_WORKLOAD: self._stop_workload,
            Instruction.SCALE_WORKLOAD: self._scale_workload,
            Instruction.PAUSE_WORKLOAD: self._pause_workload,
            Instruction.RESTORE_ROUTE: self._restore_route,
            Instruction.REMOVE_ROUTE: self._remove_route,
            Instruction.PUT_BACK: self._put_back,
        }

    async def perform_due(self) -> None:
        """Claims what is due and starts it, as long as there is room for more at once."""
        while (room := self.room) > 0:
            claimed = await self._store.claim(limit=room, lease_s=self._terms.lease_s)
            self.take(claimed)
            if len(claimed) < room:
                return

    @property
    def room(self) -> int:
        """How many more it takes at once."""
        return 0 if self._draining else _AT_ONCE - len(self._running)

    def take(self, claimed: Sequence[Held]) -> None:
        """Starts what is this process's already."""
        for held in claimed:
            running = asyncio.create_task(self._perform(held), name=f"{held.task.instruction} {held.task.deployment_id}")
            self._running[running] = held.task
            running.add_done_callback(self._ended)

    def _ended(self, running: asyncio.Task[None]) -> None:
        # There may be more than could be taken at once.
        if len(self._running) >= _AT_ONCE:
            self._wake()
        del self._running[running]

    async def drain(self, grace_s: float = 5.0) -> None:
        """Takes no more, waits for what runs, then lets go of it; another process takes it over after the lease."""
        self._draining = True
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + grace_s
        # What is not recorded is performed again after its lease.
        with suppress(TemporaryError):
            await self._record_performed()
        # What a commit took before it knew is started in the meantime.
        while self._running and loop.time() < ends_at:
            await asyncio.wait(self._running, timeout=ends_at - loop.time())
            with suppress(TemporaryError):
                await self._record_performed()
        late = list(self._running)
        for running in late:
            running.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    @asynccontextmanager
    async def holding(self) -> AsyncIterator[None]:
        """Beside the block, renews the leases of what takes longer than expected; most is done before the first time."""
        async with (
            self._conclude.open(),
            looping("leases", self._renew, every_s=self._terms.lease_s / 3),
            looping("performed", self._record_performed, every_s=_LONGEST_DELAY_S, wake=self._record),
        ):
            yield

    async def _renew(self) -> None:
        if self._running:
            await self._store.renew(list(self._running.values()), self._terms.lease_s)

    async def _perform(self, held: Held) -> None:
        task = held.task
        take_on(held.record.deployment.context)
        try:
            event = await self._actions[task.instruction](held)
            if event is None:
                self._done(held)
            elif not await self._conclude((held, event)):
                log.info("instruction lost", instruction=task.instruction, deployment=task.deployment_id)
        except TemporaryError as error:
            delay_s = min(max(0.2 * 2 ** min(task.tries, 10), error.retry_after_s), _LONGEST_DELAY_S)
            log.info("instruction waits", instruction=task.instruction, deployment=task.deployment_id, error=str(error))
            await self._put_off(task, delay_s)
        except Exception:
            log.exception("instruction failed", instruction=task.instruction, deployment=task.deployment_id)
            await self._put_off(task, _LONGEST_DELAY_S)

    def _done(self, held: Held) -> None:
        if not self._performed:
            # Well before its lease runs out: then somebody else would perform it again.
            delay_s = min(_RECORDED_WITHIN_S, self._terms.lease_s / 5)
            asyncio.get_running_loop().call_later(delay_s, self._record.set)
        self._performed.append(held)

    async def _record_performed(self) -> None:
        performed, self._performed = self._performed, []
        try:
            await asyncio.gather(*(self._conclude((held, None)) for held in performed))
        except BaseException:
            self._performed = performed + self._performed
            raise

    async def _put_off(self, task: Task, delay_s: float) -> None:
        await self._store.put_off(task, delay_s)
        asyncio.get_running_loop().call_later(delay_s, self._wake)

    async def _start_build(self, held: Held) -> Event | None:
        now, attempt = held.record.deployment, held.task.attempt
        if now.state is not State.BUILDING or now.attempt != attempt or now.awaits_slot:
            return None
        try:
            await self._outside.start_build(held.record, limits=now.slot, timeout_s=self._terms.build_timeout_s)
        except PermanentError as error:
            return BuildFailed(attempt, f"the build could not be started: {error.message}")
        return None

    async def _cancel_build(self, held: Held) -> Event | None:
        try:
            await self._outside.cancel_build(held.task.deployment_id, held.task.attempt)
        except NotFound:
            return None
        return None

    async def _provision(self, held: Held) -> Event | None:
        now = held.record.deployment
        if now.state is not State.PROVISIONING:
            return None
        try:
            if now.static:
                await self._outside.publish(held.record)
                return ReleasePublished()
            await self._outside.apply_workload(held.record)
        except PermanentError as error:
            return ProvisionFailed(error.message)
        return None

    async def _switch_route(self, held: Held) -> Event | None:
        now, route = held.record.deployment, held.route
        if now.state not in (State.PROVISIONING, State.PRODUCTION) or route is None:
            return None
        if route.serving > now.number:
            return RouteTaken()
        try:
            await self._outside.set_route(held.record, fence(now.number, route.floor, route.generation))
        except Aborted:
            return RouteTaken()
        except PermanentError as error:
            return ProvisionFailed(error.message)
        return RouteSwitched(now.revision)

    async def _restore_route(self, held: Held) -> Event | None:
        """Undoes a switch whose record did not happen: the deployment was called off in between."""
        now = held.record.deployment
        serving = await self._store.serving(now.project_id, now.environment)
        if serving is None:
            await self._outside.remove_route(now)
            return None
        async with self._store.begin() as work:
            await work.next_fence(now, call_off=True)
        async with self._store.begin() as work:
            own = await work.next_fence(serving.deployment)
        try:
            await self._outside.set_route(serving, own)
        except Aborted:
            return None
        return None

    async def _scale_workload(self, held: Held) -> Event | None:
        if held.record.deployment.state is State.PRODUCTION:
            await self._outside.scale_workload(held.record.deployment.id, held.record.deployment.replicas)
        return None

    async def _pause_workload(self, held: Held) -> Event | None:
        now = held.record.deployment
        if now.state is State.PRODUCTION:
            await self._outside.pause_workload(now.id, paused=now.paused)
        return None

    async def _stop_workload(self, held: Held) -> Event | None:
        await self._outside.stop_workload(held.record.deployment.id)
        return None

    async def _put_back(self, held: Held) -> Event | None:
        async with self._store.begin() as work:
            await handlers.put_back(work, held.record.deployment.project_id, held.record.deployment.id)
        return None

    async def _remove_route(self, held: Held) -> Event | None:
        await self._outside.remove_route(held.record.deployment)
        return None
