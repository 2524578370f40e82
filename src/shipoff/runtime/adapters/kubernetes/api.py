"""The API server: what the driver asks of it, with its errors translated and its wishes to be left alone respected.

Every call may be repeated: objects are applied whole, server-side, under one field manager
(https://kubernetes.io/docs/reference/using-api/server-side-apply/), and deleting what is gone is no error.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx2
from lightkube import AsyncClient
from lightkube.core.resource import GlobalResource, NamespacedResource
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.core_v1 import Node, Pod, PodLog
from lightkube.types import PatchType
from lightkube.utils.quantity import parse_quantity

from shipoff.common.errors import InvalidInput, Unavailable
from shipoff.common.kubernetes import Absent, Cluster, translated
from shipoff.runtime.manifests import Object
from shipoff.runtime.manifests.marks import MANAGER, platform_labels
from shipoff.runtime.manifests.release import CONTAINER
from shipoff.runtime.ports import Capacity

# The first whose input can be ended.
_EXEC_PROTOCOL = "v5.channel.k8s.io"
# Who is told to have set what an autoscaler changes from then on.
_AUTOSCALED = "shipoff-autoscaled"
_ANSWER_S = 10.0


class Api:
    """Calls to one cluster."""

    def __init__(self, client: AsyncClient, *, platform: str) -> None:
        self._client = client
        self._own = platform_labels(platform)
        # Its overloads know single kinds only.
        self._any: Any = client
        self._cluster = Cluster(client)
        self._call = self._cluster.call

    async def close(self) -> None:
        """Ends its connections."""
        await self._client.close()

    async def apply(self, obj: Object) -> Object:
        """Applies the object; what the server made of it. Raises TemporaryError, PermanentError."""
        try:
            return await self._call(lambda: self._client.apply(obj, field_manager=MANAGER, force=True))
        except Absent as error:
            # Its namespace was on its way out and has ended in the meantime; the next look makes it anew.
            raise Unavailable(error.message) from error

    async def hand_over(self, deployment: Deployment, replicas: int) -> Deployment:
        """Sets how many instances there are, as a field that is not the platform's any more; the Deployment then.

        Raises TemporaryError, also when it is gone or is another by now.
        https://kubernetes.io/docs/reference/using-api/server-side-apply/#transferring-ownership
        """
        meta: Any = deployment.metadata
        # With its uid none is made where there is none.
        known = {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid}
        part = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": known, "spec": {"replicas": replicas}}
        how: dict[str, Any] = {"patch_type": PatchType.APPLY, "field_manager": _AUTOSCALED, "force": True}
        try:
            return await self._call(lambda: self._client.patch(Deployment, meta.name, part, namespace=meta.namespace, **how))
        except InvalidInput as error:
            # Another of the same name by now: its uid cannot be changed to the one that was known. Nothing else is wrong here.
            raise Unavailable(error.message) from error

    async def capacity(self) -> Capacity:
        """What pods may request on the nodes that take any, all together. Raises TemporaryError."""
        nodes, _ = await self._cluster.listed(Node, labels={}, namespace=None)
        cpu = memory = Decimal(0)
        for node in nodes:
            if node.status is not None and not (node.spec and node.spec.unschedulable):
                given = node.status.allocatable or {}
                cpu += parse_quantity(given.get("cpu")) or 0
                memory += parse_quantity(given.get("memory")) or 0
        return Capacity(int(cpu * 1000), int(memory))

    async def delete(self, kind: type[Object], name: str, namespace: str) -> None:
        """Deletes it with what it owns; nothing when it is gone."""
        place = {} if issubclass(kind, GlobalResource) else {"namespace": namespace}
        with contextlib.suppress(Absent):
            await self._call(lambda: self._any.delete(kind, name, **place))

    async def annotate(self, kind: type[Any], name: str, namespace: str, notes: dict[str, str]) -> None:
        """Adds annotations that are for somebody else to read; nothing when it is gone."""
        part = {"metadata": {"annotations": notes}}
        with contextlib.suppress(Absent):
            await self._call(lambda: self._any.patch(kind, name, part, namespace=namespace, patch_type=PatchType.MERGE))

    async def delete_pod(self, name: str, namespace: str, *, grace_s: int | None = None) -> None:
        """Ends a pod; nothing when it is gone."""
        with contextlib.suppress(Absent):
            await self._call(lambda: self._client.delete(Pod, name, namespace=namespace, grace_period=grace_s))

    async def pod(self, name: str, namespace: str) -> Pod | None:
        """A pod as it is now; None when it is gone."""
        with contextlib.suppress(Absent):
            return await self._call(lambda: self._client.get(Pod, name, namespace=namespace))
        return None

    async def annotate_pod(self, name: str, namespace: str, annotations: dict[str, str]) -> None:
        """Sets annotations of a pod that is there. Raises TemporaryError, PermanentError."""
        meta = {"name": name, "namespace": namespace, "annotations": annotations}
        part = {"apiVersion": "v1", "kind": "Pod", "metadata": meta}
        how: dict[str, Any] = {"patch_type": PatchType.APPLY, "field_manager": MANAGER + "-held", "force": True}
        await self._call(lambda: self._client.patch(Pod, name, part, namespace=namespace, **how))

    def follow_log(self, pod: str, namespace: str) -> AsyncGenerator[bytes, None]:
        """What a pod's container writes, from the beginning to its end. Raises TemporaryError, PermanentError."""
        return self._log(pod, namespace, {"follow": "true"})

    def exec(self, pod: str, namespace: str, argv: Sequence[str], *, has_input: bool) -> AbstractAsyncContextManager[Any]:
        """The WebSocket of a command in a pod's container."""
        params = {"command": list(argv), "container": CONTAINER, "stdout": True, "stderr": True, "stdin": has_input}
        requests: Any = self._client._client
        request = requests.prepare_request("exec", Pod, None, pod, namespace, params=params)
        socket: AbstractAsyncContextManager[Any] = requests._client.websocket(
            request.url, subprotocols=[_EXEC_PROTOCOL], params=request.params
        )
        return socket

    async def last_lines(self, pod: str, namespace: str, *, previous: bool, count: int) -> tuple[str, ...]:
        """The last lines that a pod's container wrote, or the run before it; none where there is nothing to be had."""
        params = {"tailLines": count, "previous": "true" if previous else None, "limitBytes": 16384}
        # The library's own log() cannot ask for the run before.
        requests: Any = self._client._client
        request = requests.prepare_request("get", PodLog, name=pod, namespace=namespace, params=params)
        try:
            async with asyncio.timeout(5):
                answer = await requests.send(requests.build_adapter_request(request))
        except (httpx2.HTTPError, TimeoutError):
            return ()
        if answer.status_code != 200:
            return ()
        return tuple(line for line in answer.text.splitlines() if line.strip())[-count:]

    def log(self, pod: str, namespace: str, *, since: int, previous: bool, follow: bool) -> AsyncGenerator[bytes, None]:
        """What a pod's container, or the run before it, has written from this second on (0: all), each line behind its time.

        `follow`: and what it writes until it ends. Raises TemporaryError, PermanentError.
        """
        params = {
            "container": CONTAINER,
            "timestamps": "true",
            "sinceTime": datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if since else None,
            "previous": "true" if previous else None,
            "follow": "true" if follow else None,
        }
        return self._log(pod, namespace, params)

    async def _log(self, pod: str, namespace: str, params: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        # The library's own log() gives whole lines only, however long, and knows no time to begin at.
        requests: Any = self._client._client
        request = requests.prepare_request("get", PodLog, name=pod, namespace=namespace, params=params)
        # One that is followed may say nothing for as long as it likes.
        request.timeout = httpx2.Timeout(_ANSWER_S, read=None if params.get("follow") else _ANSWER_S)
        try:
            answer = await requests.send(requests.build_adapter_request(request), stream=True)
            try:
                if answer.is_error:
                    await answer.aread()
                    requests.raise_for_status(answer)
                async for chunk in answer.aiter_bytes():
                    yield chunk
            finally:
                await answer.aclose()
        except httpx2.HTTPError as error:
            raise translated(error) from error

    async def list(self, kind: type[Any]) -> tuple[list[Any], str]:
        """Everything of a kind that is the platform's, and the version at which that is so."""
        return await self._cluster.listed(kind, labels=self._own, namespace=_everywhere(kind))

    async def of_namespace(self, kind: type[Any], namespace: str, labels: dict[str, str]) -> Sequence[Any]:
        """What the platform has of a kind in a namespace, with these labels."""
        found, _ = await self._cluster.listed(kind, labels={**self._own, **labels}, namespace=namespace)
        return found

    def watch(self, kind: type[Any], version: str) -> AsyncIterator[tuple[str, Any]]:
        """What happens from that version on. Raises Gone when it is time to list again, TemporaryError."""
        return self._cluster.watched(kind, version, labels=self._own, namespace=_everywhere(kind))


def _everywhere(kind: type[Any]) -> str | None:
    return "*" if issubclass(kind, NamespacedResource) else None
