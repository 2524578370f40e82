"""What the cluster holds of the platform's, kept up to date by watches: looking at a workload asks the API nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import structlog
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.autoscaling_v2 import HorizontalPodAutoscaler
from lightkube.resources.batch_v1 import CronJob
from lightkube.resources.core_v1 import ConfigMap, LimitRange, Namespace, Pod, ResourceQuota, Secret, Service, ServiceAccount
from lightkube.resources.networking_v1 import Ingress, NetworkPolicy
from lightkube.resources.policy_v1 import PodDisruptionBudget

from shipoff.common.errors import Unavailable
from shipoff.common.kubernetes import Gone
from shipoff.common.lifecycle import background
from shipoff.runtime.adapters.kubernetes.api import Api

_Kind = TypeVar("_Kind")

# In the order in which a workload's are removed.
OWNED = (CronJob, Ingress, HorizontalPodAutoscaler, PodDisruptionBudget, Service, Deployment)
_KINDS: tuple[type[Any], ...] = (
    *OWNED, Pod, ConfigMap, Secret, ServiceAccount, ResourceQuota, LimitRange, NetworkPolicy, Namespace,
)  # fmt: skip
_FIRST_LOOK_S = 10.0

log = structlog.get_logger()


class Mirror:
    """Objects by kind, namespace and name. `on_change` is called with each that came, changed or went."""

    def __init__(self, api: Api, *, on_change: Callable[[Any], None], also: Iterable[type[Any]] = ()) -> None:
        self._api = api
        self._on_change = on_change
        self._kinds = (*_KINDS, *also)
        self._objects: dict[type[Any], dict[str, dict[str, Any]]] = {kind: defaultdict(dict) for kind in self._kinds}
        self._unread = set(self._kinds)
        self._read = asyncio.Event()

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follows the cluster beside the block, which begins when everything was read once, or could not be for a while."""
        # What it knew of an earlier time is old.
        self._unread = set(self._kinds)
        self._read.clear()
        async with AsyncExitStack() as stack:
            for kind in self._kinds:
                await stack.enter_async_context(background(f"follow {kind.__name__}", _bound(self._follow, kind)))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._read.wait(), _FIRST_LOOK_S)
            yield

    def require(self) -> None:
        """Raises Unavailable while it does not know the cluster yet."""
        if self._unread:
            kinds = ", ".join(sorted(kind.__name__ for kind in self._unread))
            raise Unavailable(f"the cluster has not been read yet: {kinds}")

    def get(self, kind: type[_Kind], namespace: str, name: str) -> _Kind | None:
        """The object; None where there is none, or it is on its way out."""
        found: _Kind | None = self._objects[kind][_place(kind, namespace)].get(name)
        return None if found is None or is_leaving(found) else found

    def all(self, kind: type[_Kind], namespace: str) -> list[_Kind]:
        """Everything of a kind in a namespace, also what is on its way out."""
        return list(self._objects[kind][namespace].values())

    def everywhere(self, kind: type[_Kind]) -> list[_Kind]:
        """Everything of a kind, also what is on its way out."""
        return [one for place in self._objects[kind].values() for one in place.values()]

    def put(self, obj: Any) -> None:
        """Knows of a newer version, from an answer or from a watch."""
        kind, meta = type(obj), obj.metadata
        known = self._objects[kind][_place(kind, meta.namespace)]
        before = known.get(meta.name)
        if before is not None and int(before.metadata.resourceVersion) > int(meta.resourceVersion):
            return
        if isinstance(obj, Secret):
            obj.data = None
        meta.managedFields = None
        known[meta.name] = obj

    def drop(self, kind: type[Any], namespace: str, name: str) -> None:
        """Knows that it is gone."""
        self._objects[kind][_place(kind, namespace)].pop(name, None)

    async def _follow(self, kind: type[Any]) -> None:
        while True:
            objects, version = await self._api.list(kind)
            self._replace(kind, objects)
            self._unread.discard(kind)
            if not self._unread:
                self._read.set()
            try:
                async for event, obj in self._api.watch(kind, version):
                    self._happened(event, obj)
            except Gone:
                log.info("the cluster is listed again", kind=kind.__name__)

    def _replace(self, kind: type[Any], objects: Iterable[Any]) -> None:
        before = self._objects[kind]
        self._objects[kind] = defaultdict(dict)
        for obj in objects:
            self.put(obj)
            old = before[_place(kind, obj.metadata.namespace)].pop(obj.metadata.name, None)
            if old is None or old.metadata.resourceVersion != obj.metadata.resourceVersion:
                self._on_change(obj)
        for gone in [obj for place in before.values() for obj in place.values()]:
            self._on_change(gone)

    def _happened(self, event: str, obj: Any) -> None:
        if event == "DELETED":
            self.drop(type(obj), obj.metadata.namespace, obj.metadata.name)
        else:
            self.put(obj)
        self._on_change(obj)


def is_leaving(obj: Any) -> bool:
    """Whether it is being deleted."""
    return obj.metadata.deletionTimestamp is not None


def _place(kind: type[Any], namespace: str | None) -> str:
    return "" if kind is Namespace else namespace or ""


def _bound(follow: Callable[[type[Any]], Any], kind: type[Any]) -> Callable[[], Any]:
    return lambda: follow(kind)
