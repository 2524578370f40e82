"""Behind the small Kubernetes API: Jobs bring pods, and the pod of a build is the real builder, as a process of this machine.

What a node can do to a pod (no room, no image, out of memory, away) a test has it do.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from neighbours.kube_api import Json, KubeApi

from shipoff.build.manifests.builder import ASSIGNMENT, CACHES, FOLDER

_BATCH = "job-name"
_OUT_OF_ROOM = {
    "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
    "message": "0/1 nodes are available: 1 Insufficient cpu.",
}  # fmt: skip


@dataclass
class JobNodes:
    """The Job controller, the garbage collector and one kubelet."""

    api: KubeApi
    folder: Path
    # Pods that come now find no room, or no image.
    full: bool = False
    no_image: bool = False
    # The kubelet does nothing any more: who runs goes on, who is deleted stays.
    away: bool = False
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    _killed: dict[str, str] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[JobNodes]:
        """Beside the block. Nothing that it started is left."""
        self.api.store.react = self._react
        try:
            yield self
        finally:
            self.api.store.react = lambda *_: None
            for process in self.processes.values():
                _signal(process, signal.SIGKILL)
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _react(self, event: str, kind: str, obj: Json) -> None:
        if kind == "jobs" and event == "DELETED":
            self._collect(obj)
        elif kind == "jobs":
            self._soon(self._reconciled(obj))
        elif kind == "pods" and event == "DELETED":
            self._pod_gone(obj)
        elif kind == "pods" and "deletionTimestamp" in obj["metadata"] and not self.away:
            self._soon(self._told_to_end(obj))
        elif kind == "namespaces" and "deletionTimestamp" in obj["metadata"] and event == "MODIFIED":
            self._soon(self._empty(obj["metadata"]["name"]))

    # The Job controller.

    async def _reconciled(self, job: Json) -> None:
        spec, meta = job["spec"], job["metadata"]
        if spec.get("suspend") or _over(job) or not self._is_there("jobs", job):
            return
        if "startTime" not in job.get("status", {}):
            job["status"] = {"startTime": _now()}
            self._make_pod(job)
        if spec["activeDeadlineSeconds"] <= 1:
            self._finish(job, "Failed", "DeadlineExceeded")
            for pod in self._pods(meta["uid"]):
                self.api._delete(_key("pods", pod), pod)

    def _make_pod(self, job: Json) -> None:
        meta, template = job["metadata"], copy.deepcopy(job["spec"]["template"])
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"]}
        labels = {**template["metadata"]["labels"], _BATCH: meta["name"]}
        known = {"name": f"{meta['name'][:57]}-{uuid.uuid4().hex[:5]}", "namespace": meta["namespace"], "labels": labels}
        pod = {"metadata": {**known, "ownerReferences": [owner]}, "spec": template["spec"], "status": {"phase": "Pending"}}
        self.api.store.create("pods", pod)
        self._soon(self._live(pod, job))

    def _finish(self, job: Json, condition: str, reason: str) -> None:
        if not _over(job):
            job.setdefault("status", {})["conditions"] = [{"type": condition, "status": "True", "reason": reason}]
            self.api.store.update("jobs", job)

    def _pod_gone(self, pod: Json) -> None:
        job = self._job_of(pod)
        if job is not None:
            self._finish(job, "Failed", "BackoffLimitExceeded")

    def _job_of(self, pod: Json) -> Json | None:
        uid = pod["metadata"]["ownerReferences"][0]["uid"]
        return next((one for one in self.api.store.of("jobs") if one["metadata"]["uid"] == uid), None)

    def _pods(self, uid: str) -> list[Json]:
        return [one for one in self.api.store.of("pods") if one["metadata"]["ownerReferences"][0]["uid"] == uid]

    def _collect(self, job: Json) -> None:
        """What a Job owned goes with it."""
        for kind in ("pods", "secrets"):
            for one in self.api.store.of(kind):
                if any(owner["uid"] == job["metadata"]["uid"] for owner in one["metadata"].get("ownerReferences", ())):
                    self.api._delete(_key(kind, one), one)

    async def _empty(self, namespace: str) -> None:
        for key in [one for one in list(self.api.store.objects) if one[1] == namespace]:
            if (found := self.api.store.objects.get(key)) is not None:
                self.api._delete(key, found)
        while any(key[1] == namespace for key in self.api.store.objects):  # noqa: ASYNC110 - the kubelet ends them
            await asyncio.sleep(0.02)
        self.api.store.delete(("namespaces", "", namespace))

    # The kubelet.

    async def _live(self, pod: Json, job: Json) -> None:
        if self.full:
            return self._say(pod, {"phase": "Pending", "conditions": [_OUT_OF_ROOM]})
        if self.no_image:
            image = pod["spec"]["containers"][0]["image"]
            return self._say(
                pod, _status("Pending", {"waiting": {"reason": "ImagePullBackOff", "message": f"{image}: not found"}})
            )
        self._say(pod, _status("Pending", {"waiting": {"reason": "ContainerCreating"}}))
        name, said = pod["metadata"]["name"], self.folder / f"{pod['metadata']['name']}.log"
        process = await self._spawn(pod, said)
        self.processes[name] = process
        self._say(pod, _status("Running", {"running": {"startedAt": _now()}}))
        code = await process.wait()
        if self.away:
            return None
        words = (await asyncio.to_thread(said.read_text, errors="replace"))[-2000:] if code else ""
        ended = {
            "exitCode": code if code >= 0 else 128 - code,
            "reason": "Completed" if code == 0 else "Error",
            "message": words,
        }
        ended["reason"] = self._killed.get(name, ended["reason"])
        self._say(pod, _status("Succeeded" if code == 0 else "Failed", {"terminated": ended}))
        if "deletionTimestamp" in pod["metadata"]:
            self.api.store.delete(_key("pods", pod))
        elif self._is_there("jobs", job):
            self._finish(job, "Complete" if code == 0 else "Failed", "" if code == 0 else "BackoffLimitExceeded")
        return None

    async def _spawn(self, pod: Json, said: Path) -> asyncio.subprocess.Process:
        """The pod's own command, with its volumes as folders of this machine."""
        container = pod["spec"]["containers"][0]
        root = self.folder / pod["metadata"]["name"]
        for path in (FOLDER, CACHES):
            (root / path.strip("/")).mkdir(parents=True)
        environment = {one["name"]: one.get("value") or self._secret(pod, one) for one in container["env"]}
        environment[ASSIGNMENT] = (
            environment[ASSIGNMENT].replace(f'"{FOLDER}', f'"{root}{FOLDER}').replace(f'"{CACHES}', f'"{root}{CACHES}')
        )
        with said.open("wb") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable, *container["command"][1:], env={**environment, "PATH": os.environ["PATH"]},
                cwd=root, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def _secret(self, pod: Json, variable: Json) -> str:
        wanted = variable["valueFrom"]["secretKeyRef"]
        found = self.api.store.objects["secrets", pod["metadata"]["namespace"], wanted["name"]]
        return base64.b64decode(found["data"][wanted["key"]]).decode()

    async def _told_to_end(self, pod: Json) -> None:
        """SIGTERM, the grace, SIGKILL; the object goes when the process has gone."""
        process = self.processes.get(pod["metadata"]["name"])
        if process is None or process.returncode is not None:
            self.api.store.delete(_key("pods", pod))
            return
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), pod["spec"]["terminationGracePeriodSeconds"])
        _signal(process, signal.SIGKILL)

    def run_out_of_memory(self) -> None:
        """The kernel kills every process of every pod that runs, as it does where a container is over its limit."""
        for name, process in self.processes.items():
            if process.returncode is None:
                self._killed[name] = "OOMKilled"
                _signal(process, signal.SIGKILL)

    def _say(self, pod: Json, status: Json) -> None:
        if self._is_there("pods", pod):
            pod["status"] = status
            self.api.store.update("pods", pod)

    def _is_there(self, kind: str, obj: Json) -> bool:
        return self.api.store.objects.get(_key(kind, obj)) is obj


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        if process.returncode is None:
            process.send_signal(number)


def _key(kind: str, obj: Json) -> tuple[str, str, str]:
    return kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _over(job: Json) -> bool:
    return bool(job.get("status", {}).get("conditions"))


def _status(phase: str, state: Json) -> Json:
    container = {"name": "builder", "image": "", "imageID": "", "ready": False, "restartCount": 0, "state": state}
    return {"phase": phase, "containerStatuses": [container]}
