"""A build service whose builders are Jobs: on the small API of kube_api.py, or on the real cluster that KUBECONFIG names.

The real one is used where SHIPOFF_TEST_BUILDER_IMAGE names an image of Shipoff that the cluster can run, and
SHIPOFF_TEST_ADDRESS the address of this machine that its pods reach (`make test-cluster BUILDER=… ADDRESS=…`).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from lightkube import ApiError, AsyncClient, KubeConfig
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Namespace, Pod, Secret
from lightkube.types import PatchType
from neighbours.build import Yard
from neighbours.kube_api import KubeApi
from neighbours.kube_jobs import JobNodes

from shipoff.build.domain import Ref
from shipoff.build.manifests import name_of

IMAGE = os.environ.get("SHIPOFF_TEST_BUILDER_IMAGE", "")
REAL = bool(IMAGE)
ADDRESS = os.environ.get("SHIPOFF_TEST_ADDRESS") or "127.0.0.1"
# A real cluster pulls, schedules and starts.
PATIENCE_S = 120.0 if REAL else 60.0


@dataclass
class Site:
    """A cluster, as the tests of builds look at it."""

    client: AsyncClient
    namespace: str
    fake: KubeApi | None
    nodes: JobNodes | None

    async def names(self, kind: type[Any]) -> list[str]:
        """Of everything of a kind in the builds' namespace."""
        try:
            return [one.metadata.name async for one in self.client.list(kind, namespace=self.namespace)]
        except ApiError:
            return []

    async def job(self, deployment_id: str, attempt: int = 1) -> Job | None:
        """An attempt's Job."""
        try:
            return await self.client.get(Job, name_of(Ref(deployment_id, attempt)), namespace=self.namespace)
        except ApiError as error:
            if error.status.code != 404:
                raise
            return None

    async def pod(self, deployment_id: str) -> Pod:
        """The pod of a build that runs."""
        labels = {"shipoff.dev/deployment": deployment_id}
        (found,) = [one async for one in self.client.list(Pod, namespace=self.namespace, labels=labels)]
        return found

    async def delete_job(self, deployment_id: str) -> None:
        """As a person does: what came of it goes too."""
        await self.client.delete(Job, name_of(Ref(deployment_id, 1)), namespace=self.namespace)

    async def delete_pod(self, deployment_id: str, *, grace_s: int | None = None) -> None:
        """The same for its pod."""
        name = (await self.pod(deployment_id)).metadata.name
        await self.client.delete(Pod, name, namespace=self.namespace, grace_period=grace_s)

    async def cut_short(self, deployment_id: str) -> None:
        """Its Job may take no longer from now on."""
        change = {"spec": {"activeDeadlineSeconds": 1}}
        name = name_of(Ref(deployment_id, 1))
        await self.client.patch(Job, name, change, namespace=self.namespace, patch_type=PatchType.MERGE)

    async def empty(self) -> bool:
        """Whether nothing of builds is left."""
        return not [name for kind in (Job, Pod, Secret) for name in await self.names(kind) if name.startswith("build-")]

    async def tidy(self) -> None:
        """Removes the namespace."""
        try:
            await self.client.delete(Namespace, self.namespace)
        except ApiError as error:
            if error.status.code != 404:
                raise


@asynccontextmanager
async def site(folder: Path, setenv: Callable[[str, str], None]) -> AsyncIterator[Site]:
    """A cluster for one test, with the settings that lead a build service to it."""
    namespace = f"builds-{secrets.token_hex(4)}"
    setenv("SHIPOFF_BUILD_JOB_NAMESPACE", namespace)
    setenv("SHIPOFF_KUBERNETES_PLATFORM", f"test-{namespace}")
    setenv("SHIPOFF_BUILD_JOB_IMAGE", IMAGE or "registry.example/shipoff:test")
    if REAL:
        client = AsyncClient(config=KubeConfig.from_env().get())
        made = Site(client, namespace, None, None)
        try:
            yield made
        finally:
            await made.tidy()
            await client.close()
        return
    api = KubeApi()
    async with api.serving(), JobNodes(api, folder).working() as nodes:
        config = folder / "kubeconfig"
        config.write_text(yaml.safe_dump(api.kubeconfig()))
        setenv("KUBECONFIG", str(config))
        client = AsyncClient(config=KubeConfig.from_dict(api.kubeconfig()).get(), trust_env=False)
        yield Site(client, namespace, api, nodes)
        await client.close()


async def until(condition: Callable[[], Any], words: str, timeout_s: float = PATIENCE_S) -> None:
    """Waits for a condition, which may be a coroutine function."""
    deadline = time.monotonic() + timeout_s
    while True:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        assert time.monotonic() < deadline, words
        await asyncio.sleep(0.25 if REAL else 0.02)


async def said(yard: Yard, deployment_id: str, text: str) -> None:
    """Waits for a word in the build's log; fails with the outcome if that comes first."""

    async def heard() -> bool:
        if text in await yard.text(deployment_id):
            return True
        results = await yard.results(deployment_id)
        assert not results, results
        return False

    await until(heard, f"the build never said {text!r}")
