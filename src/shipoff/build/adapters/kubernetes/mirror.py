"""The builds' Jobs and pods, kept up to date by watches: a look at a builder asks the API nothing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import structlog
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Pod

from shipoff.build.adapters.kubernetes.api import JobApi
from shipoff.build.adapters.kubernetes.sight import has_begun, last_words, sight_of
from shipoff.build.domain import ALIVE, Ref, Sight
from shipoff.build.manifests import ATTEMPT, DEPLOYMENT
from shipoff.common.errors import Unavailable
from shipoff.common.kubernetes import Gone
from shipoff.common.lifecycle import background

_KINDS: tuple[type[Any], ...] = (Job, Pod)
_FIRST_LOOK_S = 10.0

log = structlog.get_logger()


class JobMirror:
    """Jobs by uid, the newest pod of each. `on_change` is called when any of them came, changed or went."""

    def __init__(self, api: JobApi, *, on_change: Callable[[], None]) -> None:
        self._api = api
        self._on_change = on_change
        self._objects: dict[type[Any], dict[str, Any]] = {kind: {} for kind in _KINDS}
        # Of a pod that has gone what it said last, until its attempt is cleaned up.
        self._words: dict[Ref, str] = {}
        self._last: dict[str, Pod] = {}
        self._begun: dict[str, float] = {}
        self._unread = set(_KINDS)
        self._read = asyncio.Event()
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follows the cluster beside the block, which begins when it was read once, or could not be for a while."""
        async with AsyncExitStack() as stack:
            for kind in _KINDS:
                await stack.enter_async_context(background(f"follow builds' {kind.__name__}", partial(self._follow, kind)))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._read.wait(), _FIRST_LOOK_S)
            yield

    def require(self) -> None:
        """Raises Unavailable while it does not know the cluster yet."""
        if self._unread:
            raise Unavailable("the cluster has not been read yet")

    def look(self, uid: str) -> Sight:
        """What is to be seen of the builder whose Job this is; nothing against it while the cluster is unknown."""
        if self._unread:
            return ALIVE
        there, last = self._pod(uid), self._last.get(uid)
        running_s = time.monotonic() - self._begun.get(uid, time.monotonic())
        left = there is None and last is not None
        return sight_of(self._objects[Job].get(uid), there or last, left=left, running_s=running_s)

    def _pod(self, uid: str) -> Pod | None:
        found = [one for one in self._objects[Pod].values() if _owner(one) == uid]
        return max(found, key=lambda one: f"{one.metadata.creationTimestamp}", default=None)

    def jobs(self) -> dict[str, Ref]:
        """Every Job by its uid, with the attempt that it is for."""
        return {uid: ref for uid, job in self._objects[Job].items() if (ref := _ref(job)) is not None}

    def pods_of(self, ref: Ref) -> list[str]:
        """The names of an attempt's pods that are there, those on their way out among them."""
        return [one.metadata.name for one in self._objects[Pod].values() if _ref(one) == ref]

    def last_words(self, ref: Ref) -> str:
        """The end of what an attempt's builder wrote, as far as the cluster has it."""
        return self._words.get(ref, "")

    def forget(self, ref: Ref) -> None:
        """The attempt is cleaned up."""
        self._words.pop(ref, None)
        for uid in [uid for uid, pod in self._last.items() if _ref(pod) == ref]:
            del self._last[uid]
            self._begun.pop(uid, None)

    async def until_without_pods(self, ref: Ref, timeout_s: float) -> bool:
        """Waits until none of the attempt's pods is there; whether that is so."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: not self.pods_of(ref))
        return not self.pods_of(ref)

    def put(self, obj: Any) -> None:
        """Knows of a newer version, from an answer or from a watch."""
        known = self._objects[type(obj)]
        before = known.get(obj.metadata.uid)
        if before is not None and int(before.metadata.resourceVersion) > int(obj.metadata.resourceVersion):
            return
        known[obj.metadata.uid] = obj
        if isinstance(obj, Pod):
            self._note(obj)

    def _note(self, pod: Pod) -> None:
        """What a pod says is kept for when it has gone."""
        ref, owner = _ref(pod), _owner(pod)
        if ref is None:
            return
        self._last[owner] = pod
        if has_begun(pod):
            self._begun.setdefault(owner, time.monotonic())
        if words := last_words(pod):
            self._words[ref] = words

    async def _follow(self, kind: type[Any]) -> None:
        while True:
            objects, version = await self._api.list(kind)
            await self._replace(kind, objects)
            self._unread.discard(kind)
            if not self._unread:
                self._read.set()
            try:
                async for event, obj in self._api.watch(kind, version):
                    self.put(obj)
                    if event == "DELETED":
                        self._objects[kind].pop(obj.metadata.uid, None)
                    await self._tell()
            except Gone:
                log.info("the builds on the cluster are listed again", kind=kind.__name__)

    async def _replace(self, kind: type[Any], objects: Iterable[Any]) -> None:
        self._objects[kind] = {}
        for obj in objects:
            self.put(obj)
        await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()
        self._on_change()


def _owner(pod: Pod) -> str:
    """The uid of its Job."""
    owners = (pod.metadata.ownerReferences or ()) if pod.metadata else ()
    return next((one.uid for one in owners if one.kind == "Job"), "")


def _ref(obj: Any) -> Ref | None:
    labels = obj.metadata.labels or {}
    attempt = labels.get(ATTEMPT, "")
    return Ref(labels[DEPLOYMENT], int(attempt)) if DEPLOYMENT in labels and attempt.isdigit() else None
