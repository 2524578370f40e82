"""What is asked of the API server about builds, all of it in one namespace but the namespace itself."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from lightkube import AsyncClient
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Pod, Secret
from lightkube.types import CascadeType, PatchType

from shipoff.build.domain import Ref
from shipoff.build.manifests import BuildCluster, Object, name_of, platform_labels
from shipoff.build.manifests.marks import MANAGER
from shipoff.common.errors import Aborted, Unavailable
from shipoff.common.kubernetes import Absent, Cluster, Taken


class JobApi:
    """Calls to one cluster. Everything raises TemporaryError while it is away."""

    def __init__(self, client: AsyncClient, cluster: BuildCluster) -> None:
        # Its overloads know single kinds only.
        self._client: Any = client
        self._calls = Cluster(client)
        self._namespace = cluster.namespace
        self._own = platform_labels(cluster.platform)

    async def apply(self, obj: Object) -> None:
        """Applies an object of the namespace, or the namespace. Raises PermanentError."""
        try:
            await self._calls.call(lambda: self._client.apply(obj, field_manager=MANAGER, force=True))
        except Absent as error:
            # The namespace has ended in the meantime; it is made anew the next time.
            raise Unavailable(error.message) from error

    async def create(self, job: Job) -> Job:
        """Creates the Job; as the server knows it. Raises Aborted when there is one, Absent without the namespace."""
        try:
            created: Job = await self._calls.call(lambda: self._client.create(job, field_manager=MANAGER))
        except Taken as error:
            raise Aborted(error.message) from error
        return created

    async def tell(self, secret: Secret) -> None:
        """Creates the Secret; one that is there already is the same."""
        with contextlib.suppress(Taken):
            await self._calls.call(lambda: self._client.create(secret, field_manager=MANAGER))

    async def let_go(self, ref: Ref) -> Job | None:
        """Lets the Job have its pod; as the server knows it then, None when it is gone."""
        change = {"spec": {"suspend": False}}
        how = {"namespace": self._namespace, "patch_type": PatchType.MERGE, "field_manager": MANAGER}
        with contextlib.suppress(Absent):
            changed: Job = await self._calls.call(lambda: self._client.patch(Job, name_of(ref), change, **how))
            return changed
        return None

    async def delete(self, ref: Ref) -> None:
        """Deletes an attempt's Job and Secret; the cluster ends the pod. Nothing when they are gone."""
        for kind in (Job, Secret):
            await self._delete(kind, name_of(ref), cascade=CascadeType.BACKGROUND)

    async def delete_pod(self, name: str, *, grace_s: int) -> None:
        """Ends a pod, at once where the grace is zero: also one whose node is away. Nothing when it is gone."""
        await self._delete(Pod, name, grace_period=grace_s)

    async def _delete(self, kind: type[Any], name: str, **how: Any) -> None:
        with contextlib.suppress(Absent):
            await self._calls.call(lambda: self._client.delete(kind, name, namespace=self._namespace, **how))

    async def list(self, kind: type[Any]) -> tuple[list[Any], str]:
        """This platform's, and the version at which that is so."""
        return await self._calls.listed(kind, labels=self._own, namespace=self._namespace)

    def watch(self, kind: type[Any], version: str) -> AsyncIterator[tuple[str, Any]]:
        """What happens from that version on. Raises Gone when it is time to list again."""
        return self._calls.watched(kind, version, labels=self._own, namespace=self._namespace)
