"""Commands as pods of their own beside a release's: `ports.Runner` on a cluster.

Such a pod says until when somebody follows it. Whoever does renews that; a pod that nobody follows any more is collected, and
Kubernetes itself ends it when its time is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from lightkube.models.core_v1 import ContainerStateTerminated
from lightkube.resources.core_v1 import Pod

from shipoff.common.errors import InvalidInput, ShipoffError, TemporaryError
from shipoff.runtime.adapters.feeds import Feed
from shipoff.runtime.adapters.kubernetes.api import Api
from shipoff.runtime.adapters.kubernetes.desired import Wishes
from shipoff.runtime.adapters.kubernetes.pods import read
from shipoff.runtime.domain import Command, Exited, Instance, Output, Workload
from shipoff.runtime.manifests.command import command_pod
from shipoff.runtime.manifests.marks import COMMAND, HELD_UNTIL

_LOOK_S = 0.25
_STARTS_WITHIN_S = 90.0
_HELD_S = 60.0
_RENEW_S = 20.0
_ENDED_CODE, _NOT_STARTED_CODE, _INTERRUPTED_CODE = 124, 125, 130

log = structlog.get_logger()


class KubernetesRunner:
    """`ports.Runner` on pods."""

    def __init__(self, api: Api, wishes: Wishes, *, clock: Callable[[], float] = time.time) -> None:
        self._api = api
        self._wishes = wishes
        self._clock = clock

    @asynccontextmanager
    async def running(self, workload: Workload, command: Command, instance: Instance | None) -> AsyncIterator[_OwnPod]:
        if command.has_input:
            remedy = "run it in an instance: shipoff exec -i"
            raise InvalidInput("a pod of its own reads no input", field="has_input", remedy=remedy)
        release = self._wishes.release(workload)
        name = f"command-{secrets.token_hex(6)}"
        pod = command_pod(release, name, command.argv, limit_s=command.limit_s, held_until=self._clock() + _HELD_S)
        own = _OwnPod(self._api, pod, memory_bytes=workload.memory_bytes, clock=self._clock)
        try:
            await self._api.apply(pod)
            own.open()
            yield own
        finally:
            await asyncio.shield(own.close())


class _OwnPod:
    """`ports.Running` of a pod that runs nothing else."""

    def __init__(self, api: Api, pod: Pod, *, memory_bytes: int, clock: Callable[[], float]) -> None:
        assert pod.metadata is not None
        self._api = api
        self._name, self._namespace = pod.metadata.name or "", pod.metadata.namespace or ""
        self._memory_bytes = memory_bytes
        self._clock = clock
        self._feed = Feed()
        self._exited = Exited(_ENDED_CODE, "its pod was removed")
        self._tasks: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Begins to follow it."""
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._renew())]

    def events(self) -> AsyncGenerator[Output | Exited, None]:
        return self._feed.events()

    async def write(self, data: bytes) -> None:
        """It reads nothing."""

    async def interrupt(self) -> None:
        self._exited = Exited(_INTERRUPTED_CODE)
        await self._api.delete_pod(self._name, self._namespace)

    async def end(self, reason: str) -> None:
        self._exited = Exited(_ENDED_CODE, reason)
        await self._api.delete_pod(self._name, self._namespace, grace_s=1)

    async def close(self) -> None:
        """Removes the pod; one that the cluster keeps for now is collected later."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(TemporaryError):
            await self._api.delete_pod(self._name, self._namespace, grace_s=1)

    async def _follow(self) -> None:
        try:
            exited = await self._started()
            if exited is None:
                async with contextlib.aclosing(self._api.follow_log(self._name, self._namespace)) as chunks:
                    async for chunk in chunks:
                        await self._feed.put(Output("stdout", chunk))
                exited = await self._over()
        except ShipoffError as error:
            exited = Exited(_NOT_STARTED_CODE, error.message)
        await self._feed.put(exited)

    async def _started(self) -> Exited | None:
        """Waits until it runs or has run; how it ended, where it never will."""
        deadline = asyncio.get_running_loop().time() + _STARTS_WITHIN_S
        while (pod := await self._api.pod(self._name, self._namespace)) is not None:
            run = read(pod, self._memory_bytes)
            if run.started or run.over or run.ends:
                return None
            if asyncio.get_running_loop().time() > deadline:
                words = run.obstacle or "Kubernetes did not start it"
                return Exited(_NOT_STARTED_CODE, f"{words} within {_STARTS_WITHIN_S:g} s")
            await asyncio.sleep(_LOOK_S)
        return self._exited

    async def _over(self) -> Exited:
        """Waits until its end is known: the log may end first."""
        while (pod := await self._api.pod(self._name, self._namespace)) is not None:
            run = read(pod, self._memory_bytes)
            ended = _terminated(pod)
            if run.leaving:
                return self._exited
            if run.over or ended is not None:
                code = ended.exitCode if ended is not None else _ENDED_CODE
                by_itself = ended is not None and ended.reason in ("Completed", "Error")
                return Exited(code, "" if by_itself else run.exit)
            await asyncio.sleep(_LOOK_S)
        return self._exited

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_S)
            try:
                await self._api.annotate_pod(self._name, self._namespace, {HELD_UNTIL: f"{self._clock() + _HELD_S:.0f}"})
            except ShipoffError as error:
                log.warning("a command's pod was not renewed", pod=self._name, error=error.message)


def _terminated(pod: Pod) -> ContainerStateTerminated | None:
    statuses = (pod.status.containerStatuses or []) if pod.status else []
    return next((one.state.terminated for one in statuses if one.state and one.state.terminated), None)


def is_left_over(pod: Pod, now: float) -> bool:
    """Whether it is a command's that nobody follows any more."""
    meta = pod.metadata
    if meta is None or COMMAND not in (meta.labels or {}) or meta.deletionTimestamp is not None:
        return False
    held = (meta.annotations or {}).get(HELD_UNTIL, "0")
    return not held.isdigit() or int(held) < now
