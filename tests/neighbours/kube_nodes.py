"""The cluster behind the small API: Deployments bring pods within the quota, and pods do what their commands say.

`httpd …` serves, `sleep …` never answers, `sh -c "… exit N"` fails; an image whose digest is all zeros cannot be pulled, and
there is no node for more than 64 GiB.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import hashlib
import json
import re
import uuid
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from neighbours.kube_api import Json, KubeApi
from neighbours.kube_pods import NO_IMAGE, CommandPod

_NODE_MEBI = 64 << 10
_SELECTOR = "shipoff.dev/release"


@dataclass
class Nodes:
    """Controllers, scheduler and kubelet in one."""

    api: KubeApi
    ready_after_s: float = 0.02
    again_s: float = 0.02
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[Nodes]:
        """Beside the block."""
        for name, cpu, memory, closed in (
            ("one", "2", "4Gi", False),
            ("two", "1500m", "2Gi", False),
            ("three", "8", "1Ti", True),
        ):
            node = {"metadata": {"name": name}, "spec": {"unschedulable": closed}}
            self.api.store.create("nodes", node | {"status": {"allocatable": {"cpu": cpu, "memory": memory}}})
        self.api.store.react = self._react
        try:
            yield self
        finally:
            self.api.store.react = lambda *_: None
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _react(self, event: str, kind: str, obj: Json) -> None:
        if kind == "deployments":
            self._soon(self._deployed(obj))
        elif kind == "pods" and event == "MODIFIED" and "deletionTimestamp" in obj["metadata"]:
            self._soon(self._end(obj))
        elif kind == "pods" and event == "ADDED" and "owner" not in obj["metadata"].get("annotations", {}):
            self._soon(CommandPod(self.api, obj).run())
        elif kind == "pods" and "owner" in obj["metadata"].get("annotations", {}) and (event == "DELETED" or _is_ready(obj)):
            self._soon(self._pod_changed(obj))
        elif kind == "namespaces" and event == "MODIFIED" and "deletionTimestamp" in obj["metadata"]:
            self._soon(self._empty(obj["metadata"]["name"]))

    async def _pod_changed(self, pod: Json) -> None:
        meta = pod["metadata"]
        owner = self.api.store.objects.get(("deployments", meta["namespace"], meta["annotations"]["owner"]))
        if owner is not None:
            await self._deployed(owner)

    async def _deployed(self, deployment: Json) -> None:
        """So many pods of the newest template, the older ones only until those are ready."""
        store, meta = self.api.store, deployment["metadata"]
        gone = store.objects.get(("deployments", meta["namespace"], meta["name"])) is not deployment
        template = deployment["spec"]["template"]
        version = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:8]
        pods = [one for one in store.of("pods", meta["namespace"]) if _owner(one) == meta["name"]]
        live = [one for one in pods if "deletionTimestamp" not in one["metadata"]]
        new = [one for one in live if one["metadata"]["annotations"]["version"] == version]
        wanted = 0 if gone else deployment["spec"]["replicas"]
        for _ in range(wanted - len(new)):
            if not self._create(deployment, version):
                break
        if gone or sum(_is_ready(one) for one in new) >= wanted:
            surplus = [*(one for one in live if one not in new), *new[wanted:]]
            for one in surplus:
                self.api._delete(("pods", meta["namespace"], one["metadata"]["name"]), one)

    def _create(self, deployment: Json, version: str) -> bool:
        store, meta = self.api.store, deployment["metadata"]
        template = copy.deepcopy(deployment["spec"]["template"])
        refusal = self._over_quota(meta["namespace"], template["spec"])
        before = deployment.get("status", {}).get("conditions", [])
        status = [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": refusal}] if refusal else []
        if before != status:
            deployment["status"] = {"conditions": status}
            store.update("deployments", deployment)
        if refusal:
            return False
        name = f"{meta['name'][:50]}-{uuid.uuid4().hex[:5]}"
        labels = template["metadata"]["labels"]
        annotations = {"owner": meta["name"], "version": version}
        pod = {"metadata": {"name": name, "namespace": meta["namespace"], "labels": labels, "annotations": annotations}}
        pod |= {"spec": template["spec"], "status": {"phase": "Pending"}}
        store.create("pods", pod)
        self._soon(self._live(pod))
        return True

    def _over_quota(self, namespace: str, spec: Json) -> str:
        pods = self.api.store.of("pods", namespace)
        for quota in self.api.store.of("resourcequotas", namespace):
            hard = quota["spec"]["hard"]
            memory = _mebi(spec) + sum(_mebi(one["spec"]) for one in pods)
            if len(pods) >= int(hard["pods"]) or memory > int(hard["requests.memory"].removesuffix("Mi")):
                return f'pods "x" is forbidden: exceeded quota: {quota["metadata"]["name"]}, limited: {hard}'
        return ""

    async def _live(self, pod: Json) -> None:
        """What becomes of a pod."""
        container = pod["spec"]["containers"][0]
        command = container.get("command") or ["httpd"]
        await asyncio.sleep(self.ready_after_s / 2)
        if _mebi(pod["spec"]) > _NODE_MEBI:
            words = "0/1 nodes are available: 1 Insufficient memory."
            unfit = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
            return self._say(pod, {"phase": "Pending", "conditions": [unfit]})
        if container["image"].endswith(NO_IMAGE):
            waiting = {"reason": "ImagePullBackOff", "message": f"{container['image']}: not found"}
            return self._say(pod, _status({"waiting": waiting}, 0))
        if command[0] == "sh" and "exit" in command[-1]:
            return await self._crash(pod, command[-1])
        self._say(pod, _status({"running": {}}, 0))
        self.api.logs[pod["metadata"]["name"]] = _said(command[-1])
        await asyncio.sleep(self.ready_after_s / 2)
        if command[0] == "httpd":
            self._say(pod, _status({"running": {}}, 0, ready=True))
        return None

    async def _crash(self, pod: Json, script: str) -> None:
        ended = {"exitCode": int(script.rsplit("exit ", 1)[1]), "reason": "Error"}
        restarts, name = 0, pod["metadata"]["name"]
        while self._is_there(pod):
            self._say(pod, _status({"running": {}}, restarts))
            await asyncio.sleep(self.again_s)
            self.api.logs[name] = _said(script)
            waiting = {"reason": "CrashLoopBackOff", "message": "back-off"}
            self._say(pod, _status({"terminated": ended}, restarts))
            await asyncio.sleep(self.again_s)
            self._say(pod, _status({"waiting": waiting}, restarts, last={"terminated": ended}))
            await asyncio.sleep(self.again_s)
            restarts += 1

    def _is_there(self, pod: Json) -> bool:
        meta = pod["metadata"]
        return self.api.store.objects.get(("pods", meta["namespace"], meta["name"])) is pod

    def _say(self, pod: Json, status: Json) -> None:
        if self._is_there(pod) and "deletionTimestamp" not in pod["metadata"]:
            pod["status"] = status
            self.api.store.update("pods", pod)

    def make_unready(self, pod: Json) -> None:
        """Its readiness probe fails from now on."""
        self._say(pod, _status({"running": {}}, 0))

    async def _end(self, pod: Json) -> None:
        await asyncio.sleep(self.ready_after_s / 2)
        self.api.store.delete(("pods", pod["metadata"]["namespace"], pod["metadata"]["name"]))

    async def _empty(self, namespace: str) -> None:
        """Everything in it goes, then the namespace itself."""
        for key in [one for one in self.api.store.objects if one[1] == namespace]:
            self.api.store.delete(key)
        await asyncio.sleep(self.ready_after_s)
        with contextlib.suppress(KeyError):
            self.api.store.delete(("namespaces", "", namespace))


def _owner(pod: Json) -> str:
    return str(pod["metadata"].get("annotations", {}).get("owner", ""))


def _said(script: str) -> list[str]:
    """What a command echoes."""
    return [found.strip() for found in re.findall(r"echo ([^;>]*)", script)]


def _status(state: Json, restarts: int, *, ready: bool = False, last: Json | None = None) -> Json:
    container = {
        "name": "app", "image": "", "imageID": "", "ready": ready, "restartCount": restarts, "state": state,
        "lastState": last or {},
    }  # fmt: skip
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {"phase": "Running", "conditions": conditions, "containerStatuses": [container]}


def _is_ready(pod: Json) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _mebi(spec: Json) -> int:
    return sum(int(one["resources"]["requests"]["memory"].removesuffix("Mi")) for one in spec["containers"])
