"""Brings about what is wanted: observes, decides, saves, performs; for each workload when it is due or woken.

The stored state is saved before anything is done about it, so that whatever was started can be found again; and it is
decided from what is observed, so that an action that was missed or done twice does no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import structlog

from shipoff.common.errors import Aborted, AlreadyExists, PermanentError, TemporaryError, Unavailable
from shipoff.common.failpoints import crossing
from shipoff.common.lifecycle import background, looping
from shipoff.common.telemetry import take_on
from shipoff.runtime import transitions
from shipoff.runtime.domain import (
    Action,
    Arrange,
    Decision,
    Instance,
    InstanceKey,
    InstanceState,
    KillInstance,
    Policy,
    RemoveResidue,
    StartInstance,
    SwitchRoute,
    TerminateInstance,
    Workload,
)
from shipoff.runtime.ports import Driver, Store, Stored

# Everything that may have something to do is looked at this often, whatever woke or did not.
_RESYNC_S = 10.0
_FORGET_EVERY_S = 3600.0
_FORGET_AFTER_S = 7 * 24 * 3600.0
_AT_ONCE = 16
_LONGEST_RETRY_S = 30.0
_SAVE_TRIES = 5
_SUSPEND_POLL_S = 0.05
# What is to be looked at again at once when it has been done.
_LEAD_ON = (StartInstance, Arrange, SwitchRoute, RemoveResidue)

log = structlog.get_logger()


@dataclass
class _Known:
    """What the reconciler remembers of a workload between two looks."""

    due_at: float = 0.0
    # As stored last, and with the probe times since; None: to be loaded.
    stored: Stored | None = None
    current: Stored | None = None
    refused: dict[InstanceKey, str] = field(default_factory=dict)
    trouble: str = ""
    failures: int = 0
    busy: bool = False


class Reconciler:
    """Looks after every workload of this runtime."""

    def __init__(
        self,
        store: Store,
        driver: Driver,
        *,
        policy: Policy,
        clock: Callable[[], float],
        may_act: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = store
        self._driver = driver
        self._policy = policy
        self._clock = clock
        # Whether it is this process that brings about what is wanted.
        self._may_act = may_act
        self._known: dict[str, _Known] = {}
        self._woken: set[str] = set()
        # (when, deployment id), the next first; an entry whose time is not the workload's any more counts for nothing.
        self._due: list[tuple[float, str]] = []
        self._wake = asyncio.Event()
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._forget_at = 0.0

    def wake(self, deployment_id: str) -> None:
        """Looks at a workload at once: what is wanted of it, or what runs of it, has changed."""
        self._known.setdefault(deployment_id, _Known())
        self._woken.add(deployment_id)
        self._wake.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Reconciles beside the block; on leaving, what is under way has ended."""
        self._known.clear()
        self._woken.clear()
        self._due.clear()
        await self._resume()
        try:
            async with (
                background("reconcile workloads", self._dispatch),
                looping("resync workloads", self._resync, every_s=_RESYNC_S),
            ):
                yield
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _resume(self) -> None:
        """After a time without supervision: deadlines begin anew, nothing waits too long, unknown runs are ended."""
        for deployment_id in await self._store.unsettled():
            stored = await self._store.load(deployment_id)
            if stored is None:
                continue
            now = self._clock()
            resumed = (
                transitions.resumed(stored[0], now),
                transitions.due_within(stored[1], now + self._policy.backoff_longest_s),
            )
            if resumed != stored:
                await self._store.save(*resumed)
        await self._end_unknown()

    async def _resync(self) -> None:
        """Finds work that no wake told of."""
        versions = await self._store.unsettled()
        for deployment_id, version in versions.items():
            known = self._known.get(deployment_id)
            if known is None or known.stored is None or known.stored[0].version != version:
                self.wake(deployment_id)
        over = [one for one, known in self._known.items() if one not in versions and not known.busy]
        for deployment_id in over:
            if deployment_id not in self._woken:
                del self._known[deployment_id]
        await self._end_unknown()
        if self._clock() >= self._forget_at:
            self._forget_at = self._clock() + _FORGET_EVERY_S
            await self._store.forget_settled(older_than_s=_FORGET_AFTER_S)

    async def _end_unknown(self) -> None:
        """Ends runs that are in no workload: their record was lost, or written back from an older copy."""
        for key in await self._driver.running():
            known = self._known.get(key.deployment_id)
            if known is not None and (known.busy or _has(known.current, key)):
                continue
            if not _has(await self._store.load(key.deployment_id), key):
                log.warning("unknown instance ended", deployment_id=key.deployment_id, process=key.process, index=key.index)
                await self._driver.kill(key)

    async def suspend(self) -> None:
        """Stops every instance because the platform stops; what is wanted stays, so that the next start brings it back.

        Call it when `running` has been left.
        """
        keys = await self._driver.running()
        await asyncio.gather(*(self._driver.terminate(key) for key in keys))
        deadline = self._clock() + self._policy.grace_s
        while self._clock() < deadline:
            if not await self._driver.running():
                break
            await asyncio.sleep(_SUSPEND_POLL_S)
        await asyncio.gather(*(self._driver.kill(key) for key in keys))
        for deployment_id in await self._store.unsettled():
            stored = await self._store.load(deployment_id)
            if stored is not None:
                await self._store.save(stored[0], transitions.suspended(stored[1]))

    async def _dispatch(self) -> None:
        for deployment_id, known in self._known.items():
            self._put_off(deployment_id, known)
        while True:
            self._wake.clear()
            for deployment_id in [one for one in self._woken if not self._known[one].busy]:
                self._woken.discard(deployment_id)
                self._known[deployment_id].stored = None
                self._begin(deployment_id, self._known[deployment_id])
            wait_s = self._begin_due()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), wait_s)

    def _begin_due(self) -> float:
        """Begins what is due; the seconds until the next is."""
        while self._due:
            due_at, deployment_id = self._due[0]
            known = self._known.get(deployment_id)
            if known is None or known.busy or known.due_at != due_at:
                heapq.heappop(self._due)
                continue
            if due_at > self._clock():
                return due_at - self._clock()
            heapq.heappop(self._due)
            self._begin(deployment_id, known)
        return _RESYNC_S

    def _put_off(self, deployment_id: str, known: _Known) -> None:
        if known.due_at != float("inf"):
            heapq.heappush(self._due, (known.due_at, deployment_id))

    def _begin(self, deployment_id: str, known: _Known) -> None:
        known.busy = True
        task = asyncio.create_task(self._attend(deployment_id, known), name=f"reconcile {deployment_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _attend(self, deployment_id: str, known: _Known) -> None:
        """One look, with whatever it calls for; errors put it off."""
        try:
            async with self._room:
                known.due_at = await self._reconcile(deployment_id, known)
            known.failures = 0
        except Aborted:
            self._woken.add(deployment_id)
        except Exception as error:
            known.failures += 1
            known.stored = None
            wait_s = min(0.5 * 2 ** min(known.failures, 8), _LONGEST_RETRY_S)
            known.due_at = self._clock() + wait_s
            log.warning(
                "workload not reconciled", deployment_id=deployment_id, error=str(error), retry_s=wait_s,
                exc_info=not isinstance(error, TemporaryError),
            )  # fmt: skip
        finally:
            known.busy = False
            self._put_off(deployment_id, known)
            self._wake.set()

    async def _reconcile(self, deployment_id: str, known: _Known) -> float:
        """Observes, decides, saves and performs until nothing is to be done now; when to look again."""
        removed = False
        while True:
            if known.stored is None:
                known.stored = known.current = await self._store.load(deployment_id)
            if known.stored is None or known.current is None:
                return float("inf")
            before = known.current
            take_on(before[0].context)
            decision = await self._decide(known, before)
            known.current = await self._save(known, decision)
            for action in decision.actions:
                await self._perform(action, known)
            workload, instances = known.current
            if workload.settled:
                return float("inf")
            due_at = transitions.next_due(workload, instances, self._policy)
            if not workload.wanted:
                due_at = min(due_at, self._clock() + self._policy.again_s)
            leads_on = any(isinstance(action, _LEAD_ON) for action in decision.actions)
            if not leads_on:
                # What held it up has been done meanwhile, by whoever.
                known.trouble = ""
            # What was removed may take its time to be gone.
            again = removed and any(isinstance(action, RemoveResidue) for action in decision.actions)
            removed = removed or any(isinstance(action, RemoveResidue) for action in decision.actions)
            if not leads_on or again or known.trouble:
                return min(due_at, self._clock() + self._policy.again_s) if known.trouble else due_at

    async def _decide(self, known: _Known, before: Stored) -> Decision:
        workload, instances = before
        due = transitions.due_probes(instances, self._clock())
        seen = await self._driver.observe(workload, instances, probe=due)
        refused = {**seen.refused, **known.refused}
        observed = replace(seen, refused=refused, trouble=known.trouble or seen.trouble)
        return transitions.decide(workload, instances, observed, now=self._clock(), policy=self._policy)

    async def _save(self, known: _Known, decision: Decision) -> Stored:
        """Stores the decision, unless nothing in it has to outlive this process. Raises Aborted."""
        stored = known.stored
        if (
            stored is not None
            and not decision.emissions
            and _durable(stored) == _durable((decision.workload, decision.instances))
        ):
            return decision.workload, decision.instances
        for attempt in range(_SAVE_TRIES):
            instances = await self._placed(known, decision.instances)
            try:
                workload = await self._store.save(decision.workload, instances, emissions=decision.emissions)
            except AlreadyExists:
                # Another workload's instance took the port in between.
                if attempt == _SAVE_TRIES - 1:
                    raise
                continue
            self._tell(known.stored, workload)
            known.stored = workload, instances
            known.refused = {}
            return known.stored
        raise AssertionError("unreachable")

    async def _placed(self, known: _Known, instances: Sequence[Instance]) -> tuple[Instance, ...]:
        """Gives a port to those that are about to start."""
        before = {one.key for one in known.stored[1]} if known.stored else set()
        fresh = [one for one in instances if one.state is InstanceState.STARTING and one.key not in before]
        if not fresh:
            return tuple(instances)
        taken = set(await self._store.live_ports())
        placed = {}
        for one in fresh:
            placed[one.key] = await self._driver.place(one, taken=taken)
            taken.add(placed[one.key].port)
        return tuple(placed.get(one.key, one) for one in instances)

    @staticmethod
    def _tell(before: Stored | None, workload: Workload) -> None:
        if before is None or before[0].phase is not workload.phase:
            log.info(
                "workload changed", deployment_id=workload.deployment_id, phase=workload.phase.value,
                reason=workload.reason, revision=workload.revision,
            )  # fmt: skip

    async def _perform(self, action: Action, known: _Known) -> None:
        if not self._may_act():
            raise Unavailable("another runtime may bring it about by now")
        match action:
            case StartInstance(key=key):
                await self._start(key, known)
            case TerminateInstance(key=key):
                await self._driver.terminate(key)
            case KillInstance(key=key):
                await self._driver.kill(key)
            case Arrange() | SwitchRoute():
                await self._surround(action, known)
            case RemoveResidue(deployment_id=deployment_id):
                await self._driver.remove(deployment_id)
        crossing(type(action).__name__)

    async def _surround(self, action: Arrange | SwitchRoute, known: _Known) -> None:
        """What fails of it is an observation of the next look too."""
        if known.current is None:
            return
        workload, instances = known.current
        do = self._driver.arrange if isinstance(action, Arrange) else self._driver.switch
        try:
            await do(workload)
            known.trouble = ""
        except PermanentError as error:
            known.refused |= {one.key: error.message for one in instances}
        except TemporaryError as error:
            self._wait(known, workload.deployment_id, error.message)

    async def _start(self, key: InstanceKey, known: _Known) -> None:
        """A start that fails is an observation of the next look."""
        workload, instances = known.current or (None, ())
        instance = next((one for one in instances if one.key == key), None)
        if workload is None or instance is None:
            return
        try:
            await self._driver.start(workload, instance)
            known.trouble = ""
        except PermanentError as error:
            known.refused[key] = error.message
        except TemporaryError as error:
            self._wait(known, workload.deployment_id, error.message)

    @staticmethod
    def _wait(known: _Known, deployment_id: str, words: str) -> None:
        if known.trouble != words:
            log.info("a change waits", deployment_id=deployment_id, error=words)
        known.trouble = words


def _has(stored: Stored | None, key: InstanceKey) -> bool:
    """Whether the run is one of the workload's."""
    return stored is not None and any(one.key == key and one.state is not InstanceState.WAITING for one in stored[1])


def _durable(stored: Stored) -> Stored:
    """The state without what may be forgotten: probe times and their answers."""
    workload, instances = stored
    probed = (InstanceState.STARTING, InstanceState.READY)
    kept = tuple(replace(one, due_at=0.0, misses=0, last_words="") if one.state in probed else one for one in instances)
    return workload, kept
