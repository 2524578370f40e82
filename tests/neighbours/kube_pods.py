"""Pods that run a command once, behind the small API: their commands are run for real, as processes of this machine."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


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
        self._say({"running": {}}, "Running")
        child = await asyncio.create_subprocess_exec(
            *(part.replace("$$", "$") for part in container["command"]),
            env={"PATH": "/usr/bin:/bin", **self.environment()},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        watching = asyncio.create_task(self._end_with_the_pod(child))
        try:
            assert child.stdout is not None
            async for line in child.stdout:
                self.api.logs[name].append(line.decode().rstrip("\n"))
            code = await child.wait()
        finally:
            watching.cancel()
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
        exit_code = 128 - code if code < 0 else code
        ended = {"exitCode": exit_code, "reason": "Error" if exit_code else "Completed"}
        self._say({"terminated": ended}, "Failed" if exit_code else "Succeeded")

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
        with contextlib.suppress(ProcessLookupError):
            child.kill()

    def _say(self, state: Json, phase: str) -> None:
        container = {"name": "app", "image": "", "imageID": "", "ready": False, "restartCount": 0, "state": state}
        self.pod["status"] = {"phase": phase, "conditions": [], "containerStatuses": [container]}
        self.api.store.update("pods", self.pod)
