"""The use cases of RuntimeService: load, change what is wanted, save. The reconciler, woken, brings it about."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from shipoff.common.errors import Aborted, InvalidInput, NotFound, PreconditionFailed, Unavailable
from shipoff.runtime import transitions
from shipoff.runtime.domain import Workload
from shipoff.runtime.ports import Capacity, Store, Stored

_TRIES = 20


@dataclass(frozen=True)
class Handlers:
    """What the server calls."""

    store: Store
    wake: Callable[[str], None]
    clock: Callable[[], float]
    # What instances may reserve in all; nothing: that is not for this service to say.
    measure: Callable[[], Awaitable[Capacity | None]] | None = None

    async def capacity(self) -> Capacity:
        """What instances may reserve in all. Raises PreconditionFailed where they share a machine with builds."""
        found = await self.measure() if self.measure else None
        if found is None:
            raise PreconditionFailed("apps run on the machine that builds: its budget is theirs too")
        return found

    async def apply(self, workload: Workload) -> None:
        """Wants a workload to run; nothing when the deployment has one. Raises InvalidInput when nothing of it runs."""
        if not workload.runnable:
            raise InvalidInput("the plan has no process to run", field="workload.processes", remedy="give it a start command")
        if await self.store.insert(workload):
            self.wake(workload.deployment_id)

    async def stop(self, deployment_id: str) -> None:
        """Wants it gone; nothing when it is unknown."""
        if await self.store.load(deployment_id) is not None:
            await self._change(deployment_id, transitions.stopped)

    async def scale(self, deployment_id: str, replicas: int) -> None:
        """Wants so many replicas. Raises NotFound, and PreconditionFailed when it is not to run."""

        def change(workload: Workload) -> Workload:
            _require(workload.wanted, workload)
            return transitions.scaled(workload, replicas)

        await self._change(deployment_id, change)

    async def restart(self, deployment_id: str) -> None:
        """Wants every instance replaced. Raises NotFound, and PreconditionFailed when it was stopped."""
        now = self.clock()

        def change(workload: Workload) -> Workload:
            again = transitions.restarted(workload, now)
            _require(again is not workload, workload)
            return again

        await self._change(deployment_id, change)

    async def pause(self, deployment_id: str, *, paused: bool) -> None:
        """Wants its instances to rest, or to run again. Raises NotFound, and PreconditionFailed when it is not to run."""
        now = self.clock()

        def change(workload: Workload) -> Workload:
            _require(workload.wanted and workload.was_ready, workload)
            return transitions.paused(workload, now, wanted=paused)

        await self._change(deployment_id, change)

    async def get(self, deployment_id: str) -> Stored:
        """The workload with its instances. Raises NotFound."""
        stored = await self.store.load(deployment_id)
        if stored is None:
            raise NotFound(f"no workload runs for deployment {deployment_id}")
        return stored

    async def _change(self, deployment_id: str, change: Callable[[Workload], Workload]) -> None:
        """Saves a change of what is wanted; begins again when somebody else was faster."""
        for _ in range(_TRIES):
            workload, _instances = await self.get(deployment_id)
            changed = change(workload)
            if changed == workload:
                return
            try:
                await self.store.save(changed)
            except Aborted:
                continue
            self.wake(deployment_id)
            return
        raise Unavailable(f"workload {deployment_id} keeps changing")


def _require(holds: bool, workload: Workload) -> None:
    if not holds:
        raise PreconditionFailed(f"the workload is {workload.phase}", remedy="deploy it again")
