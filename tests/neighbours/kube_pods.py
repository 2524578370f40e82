"""Pods that run a command once, behind the small API: their commands are run for real, as processes of this machine."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


# The digest of an image that cannot be pulled.
NO_IMAGE = "sha256:" + "0" * 64


@dataclass
class CommandPod:
    """The kubelet of one bare pod."""

    api: Any
    pod: Json

    async def run(self) -> None:
        """Runs its command with the variables that it refers to; ends it when the pod is deleted."""
        meta, container = self.pod["metadata"], self.pod["spec"]["containers"][0]
        name = meta["name"]
        self.api.logs[name] = []
        if container["image"].endswith(NO_IMAGE):
            waiting = {"reason": "ImagePullBackOff", "message": f"{container['image']}: not found"}
            return self._say({"waiting": waiting}, "Pending")
        self._say({"running": {}}, "Running")
        child = await asyncio.create_subprocess_exec(
            *(part.replace("$$", "$") for part in container["command"]),
            env={"PATH": "/usr/bin:/bin", **self.environment()},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        watching = asyncio.create_task(self._end_with_the_pod(child))
        try:
            assert child.stdout is not None
            async for line in child.stdout:
                self.api.logs[name].append(line.decode().rstrip("\n"))
            code = await child.wait()
        finally:
            watching.cancel()
            _kill(child)
            await child.wait()
        exit_code = 128 - code if code < 0 else code
        ended = {"exitCode": exit_code, "reason": "Error" if exit_code else "Completed"}
        return self._say({"terminated": ended}, "Failed" if exit_code else "Succeeded")

    def environment(self) -> dict[str, str]:
        """What its Secret and its ConfigMap say."""
        found: dict[str, str] = {}
        namespace = self.pod["metadata"]["namespace"]
        for source in self.pod["spec"]["containers"][0].get("envFrom", ()):
            if "secretRef" in source:
                secret = self.api.store.objects[("secrets", namespace, source["secretRef"]["name"])]
                found |= {key: base64.b64decode(value).decode() for key, value in (secret.get("data") or {}).items()}
            if "configMapRef" in source:
                found |= self.api.store.objects[("configmaps", namespace, source["configMapRef"]["name"])].get("data") or {}
        return found

    async def _end_with_the_pod(self, child: asyncio.subprocess.Process) -> None:
        meta = self.pod["metadata"]
        key = ("pods", meta["namespace"], meta["name"])
        while self.api.store.objects.get(key) is self.pod and "deletionTimestamp" not in meta:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05), self.api.store.changed:
                    await self.api.store.changed.wait()
        _kill(child)

    def _say(self, state: Json, phase: str) -> None:
        container = {"name": "app", "image": "", "imageID": "", "ready": False, "restartCount": 0, "state": state}
        self.pod["status"] = {"phase": phase, "conditions": [], "containerStatuses": [container]}
        self.api.store.update("pods", self.pod)


def _kill(child: asyncio.subprocess.Process) -> None:
    """With everything that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
