"""A runtime on Kubernetes: the small API of kube_api.py, or the real cluster that KUBECONFIG names.

The real one is used where SHIPOFF_TEST_IMAGE names an image by digest that holds busybox's sh, httpd and sleep and that the
cluster can run (`make test-cluster IMAGE=…`).
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
from lightkube import AsyncClient, KubeConfig
from lightkube.resources.core_v1 import Namespace, Pod, Service
from neighbours.kube_api import KubeApi
from neighbours.kube_nodes import Nodes
from neighbours.kube_pods import NO_IMAGE
from neighbours.runtime_store import MemoryStore

from shipoff.common.ids import new_id
from shipoff.common.sealing import Sealer
from shipoff.runtime.adapters.kubernetes import cluster_of
from shipoff.runtime.adapters.kubernetes.api import Api
from shipoff.runtime.adapters.kubernetes.commands import KubernetesRunner
from shipoff.runtime.adapters.kubernetes.desired import Wishes
from shipoff.runtime.adapters.kubernetes.driver import KubernetesDriver
from shipoff.runtime.commands import Commands
from shipoff.runtime.domain import Artifact, Emission, EmitFailed, EmitReady, EmitStopped, Policy, Process, Workload
from shipoff.runtime.handlers import Handlers
from shipoff.runtime.manifests import ClusterSettings, Names
from shipoff.runtime.manifests.marks import ENVIRONMENT, MANAGED_BY, RELEASE
from shipoff.runtime.reconciler import Reconciler
from shipoff.runtime.settings import KubernetesSettings

IMAGE = os.environ.get("SHIPOFF_TEST_IMAGE", "")
REAL = bool(IMAGE)
MASTER_KEY = base64.b64encode(b"k" * 32).decode()
QUICK = Policy(
    drain_s=60.0, grace_s=30.0, start_probe_s=0.05, start_slow_probe_s=0.2, live_probe_s=1.0 if REAL else 0.05, live_misses=2,
    worker_settle_s=0.1, backoff_first_s=0.05, backoff_longest_s=0.2, again_s=0.1, broken_after_s=5.0 if REAL else 0.3,
)  # fmt: skip
# Runs of the tests on one cluster see nothing of each other's.
_PLATFORM = f"test-{new_id()[-8:]}"
_SETTINGS = KubernetesSettings(platform=_PLATFORM, quota_memory_bytes=1 << 50, quota_cpu_millis=1_000_000, cpu_millis=10)
CLUSTER = replace(cluster_of(_SETTINGS, grace_s=1), drain_s=1)
# A real cluster pulls, schedules and starts; the small one does as it is told.
PATIENCE_S = 120.0 if REAL else 60.0

SERVES = ("httpd", "-f", "-p", "$PORT")
SILENT = ("sh", "-c", "echo waiting for Godot; sleep 600")
CRASHES = ("sh", "-c", "echo cannot find the flux capacitor >&2; sleep 0.2; exit 7")


@dataclass
class Runtime:
    """One run of the service's inner parts."""

    store: MemoryStore
    handlers: Handlers
    reconciler: Reconciler
    driver: KubernetesDriver
    wishes: Wishes
    commands: Commands


@dataclass
class Ground:
    """A cluster, and what was stored about it; runtimes on it can follow one another."""

    client: AsyncClient
    fake: KubeApi | None
    nodes: Nodes | None
    store: MemoryStore = field(default_factory=MemoryStore)
    cluster: ClusterSettings = CLUSTER
    policy: Policy = QUICK
    # Which kind of the driver runs on it.
    make: Callable[..., KubernetesDriver] = KubernetesDriver
    names: dict[str, Names] = field(default_factory=dict)
    _sealer: Sealer = field(default_factory=lambda: Sealer(MASTER_KEY))
    _project: str = field(default_factory=new_id)
    _timeout_s: float = 10.0
    # How far the runtime's clock is ahead: a test does not wait for a deadline.
    ahead_s: float = 0.0

    def clock(self) -> float:
        """The runtime's."""
        return time.time() + self.ahead_s

    def workload(self, *command: str, variables: dict[str, str] | None = None, **changes: Any) -> Workload:
        """One of this test's project; the same command makes the same release."""
        sealed = changes.pop("sealed", None) or self.sealed(variables or {})
        base = Workload(
            deployment_id=new_id(),
            project_id=self._project,
            project_name="shop",
            team_id=new_id(),
            environment="production",
            artifact=image(),
            processes=(Process("web", command or SERVES),),
            app_root=".",
            variables=sealed,
            replicas=1,
            cpu_millis=0,
            memory_bytes=32 << 20,
            health_path="",
            ready_timeout_s=60.0,
            ready_deadline=time.time() + 60.0,
            hosts=("shop.example",),
        )
        return replace(base, **changes)

    def sealed(self, variables: dict[str, str]) -> bytes:
        """The variables sealed, differently each time."""
        return self._sealer.seal_variables(self._sealer.new_data_key(), variables, {}).SerializeToString()

    @asynccontextmanager
    async def runtime(self, **policy: float) -> AsyncIterator[Runtime]:
        """A runtime beside the block; what it brought about outlives it."""
        timeout = httpx2.Timeout(self._timeout_s)
        client = AsyncClient(config=self.client.config, timeout=timeout, trust_env=False)
        api, wishes = Api(client, platform=self.cluster.platform), Wishes(self._sealer, self.cluster)
        reconcilers: list[Reconciler] = []
        driver = self.make(api, wishes, clock=self.clock, on_change=lambda one: reconcilers[0].wake(one))  # noqa: PLW0108 - filled below
        reconciler = Reconciler(self.store, driver, policy=replace(self.policy, **policy), clock=self.clock)
        reconcilers.append(reconciler)
        async with driver.following(), reconciler.running():
            handlers = Handlers(self.store, reconciler.wake, self.clock)
            commands = Commands(self.store, KubernetesRunner(api, wishes, clock=self.clock))
            yield Runtime(self.store, handlers, reconciler, driver, wishes, commands)
        await api.close()

    async def apply(self, runtime: Runtime, workload: Workload) -> Workload:
        """Wants it to run."""
        workload = replace(workload, ready_deadline=self.clock() + workload.ready_timeout_s)
        self.names[workload.deployment_id] = runtime.wishes.of(workload).names
        await runtime.handlers.apply(workload)
        return workload

    async def ready(self, runtime: Runtime, workload: Workload) -> EmitReady:
        """Wants it to run, and waits until it is told to be ready."""
        workload = await self.apply(runtime, workload)
        return await self.told(workload, EmitReady)

    async def told(self, workload: Workload, kind: type[Any]) -> Any:
        """Waits for the news; fails when it failed instead."""

        def news() -> list[Emission]:
            return [one for deployment, one in self.store.emissions if deployment == workload.deployment_id]

        await until(lambda: any(isinstance(one, (kind, EmitFailed)) for one in news()), f"no {kind.__name__}")
        found = next((one for one in news() if isinstance(one, kind)), None)
        assert found is not None, news()
        return found

    async def fails(self, runtime: Runtime, workload: Workload, because: str) -> EmitFailed:
        """Wants it to run, and waits until its deadline has passed; on the small cluster when `because` is seen."""
        workload = await self.apply(runtime, workload)

        async def seen() -> bool:
            observed = await runtime.driver.observe(*self.store.rows[workload.deployment_id], probe=())
            probes = [one.probe.words for one in observed.instances.values() if one.probe]
            return because in f"{observed.trouble} {probes}"

        if self.fake is not None:
            await until(seen, f"nothing said {because!r}")
            self.ahead_s += workload.ready_timeout_s
            runtime.reconciler.wake(workload.deployment_id)
        failed: EmitFailed = await self.told(workload, EmitFailed)
        return failed

    async def stopped(self, runtime: Runtime, workload: Workload) -> None:
        """Wants it gone, and waits until it is."""
        await runtime.handlers.stop(workload.deployment_id)
        await self.told(workload, EmitStopped)

    async def routed(self, workload: Workload) -> str:
        """The release that the Service of its environment leads to; empty: none."""
        names = self.names[workload.deployment_id]
        services = [one async for one in self.client.list(Service, namespace=names.namespace)]
        found = [one.spec.selector[RELEASE] for one in services if one.metadata.name == names.environment]
        return found[0] if found else ""

    async def pods(self, workload: Workload, *, ready: bool = True) -> list[Pod]:
        """The pods of its release, those on their way out left aside."""
        names = self.names[workload.deployment_id]
        labels = {RELEASE: names.release, ENVIRONMENT: names.environment}
        found = [one async for one in self.client.list(Pod, namespace=names.namespace, labels=labels)]
        return [one for one in found if one.metadata.deletionTimestamp is None and (is_ready(one) or not ready)]

    async def status(self, path: str) -> int:
        """What the API server answers to a path."""
        requests: Any = self.client._client
        request = requests._client.build_request("GET", path.lstrip("/"))
        return int((await requests.send(request)).status_code)

    async def tidy(self) -> None:
        """Removes what the test left."""
        for name in {names.namespace for names in self.names.values()}:
            if await exists(self.client, name):
                await self.client.delete(Namespace, name)


def image(reference: str = "") -> Artifact:
    """The image of the tests, or the one named."""
    reference = reference or IMAGE or f"registry.example/shop@sha256:{'ab' * 32}"
    return Artifact(3, reference, reference.partition("@")[2], 1)


def missing_image() -> Artifact:
    """One that cannot be pulled."""
    return image(f"registry.invalid/shop@{NO_IMAGE}")


def is_ready(pod: Pod) -> bool:
    conditions = (pod.status.conditions or []) if pod.status else []
    return any(one.type == "Ready" and one.status == "True" for one in conditions)


async def exists(client: AsyncClient, namespace: str) -> bool:
    """Whether there is such a namespace of the platform's."""
    found = [one async for one in client.list(Namespace, labels={MANAGED_BY: "shipoff"})]
    return namespace in {one.metadata.name for one in found if one.metadata}


async def until(condition: Callable[[], Any], words: str = "it did not happen") -> None:
    """Waits for a condition, which may be a coroutine function."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        assert time.monotonic() < deadline, words
        await asyncio.sleep(0.25 if REAL else 0.01)


@asynccontextmanager
async def ground() -> AsyncIterator[Ground]:
    """A cluster for one test."""
    if REAL:
        client = AsyncClient(config=KubeConfig.from_env().get())
        made = Ground(client, None, None)
        try:
            yield made
        finally:
            await made.tidy()
            await client.close()
        return
    api = KubeApi()
    async with api.serving(), Nodes(api).working() as nodes:
        client = AsyncClient(config=KubeConfig.from_dict(api.kubeconfig()).get(), trust_env=False)
        yield Ground(client, api, nodes)
        await client.close()
