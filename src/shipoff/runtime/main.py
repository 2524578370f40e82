"""The composition root of the runtime."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from shipoff.common import config, sandbox
from shipoff.common.objects import ObjectStore
from shipoff.common.outbox import Outbox
from shipoff.common.postgres import Database, migrate
from shipoff.common.rpc import Registration, serving
from shipoff.common.sealing import Sealer
from shipoff.common.streams import RUNTIME_EVENTS, Streams
from shipoff.contracts.runtime.v1 import commands_pb2_grpc, runtime_pb2_grpc
from shipoff.contracts.types.v1 import types_pb2
from shipoff.runtime.adapters.agent import AgentOptions, LogAgent
from shipoff.runtime.adapters.commands import ProcessRunner
from shipoff.runtime.adapters.enclosure import sandbox_for
from shipoff.runtime.adapters.lease import Lease
from shipoff.runtime.adapters.postgres import PostgresStore
from shipoff.runtime.adapters.process import ProcessDriver
from shipoff.runtime.adapters.release import Releases
from shipoff.runtime.adapters.schedules import FileLogs, PostgresSchedules
from shipoff.runtime.adapters.spawning import ProcessOptions, Spawner
from shipoff.runtime.adapters.wakes import Wakes
from shipoff.runtime.commands import Commands
from shipoff.runtime.commands_server import CommandServer
from shipoff.runtime.domain import InstanceKey, Policy
from shipoff.runtime.gitops_settings import GitOpsSettings, check
from shipoff.runtime.handlers import Handlers
from shipoff.runtime.ports import Capacity, Runner, Schedules
from shipoff.runtime.reconciler import Reconciler
from shipoff.runtime.scheduler import Scheduler
from shipoff.runtime.server import Defaults, RuntimeServer
from shipoff.runtime.settings import KubernetesSettings, RuntimeSettings

# Probes and stops under way keep few connections busy.
_POOL_SIZE = 4


def steady_clock() -> Callable[[], float]:
    """Seconds since 1970 that never jump: the wall clock's time now, counted on by the monotonic clock."""
    origin = time.time() - time.monotonic()
    return lambda: origin + time.monotonic()


@dataclass(frozen=True)
class _Common:
    """What both kinds of runtime stand on."""

    settings: RuntimeSettings
    policy: Policy
    clock: Callable[[], float]
    database: Database
    streams: Streams
    outbox: Outbox

    @property
    def sealer(self) -> Sealer:
        """Opens the workloads' variables."""
        return Sealer(self.settings.master_key.get_secret_value())


@dataclass(frozen=True)
class _Parts:
    """What the servers need of either kind."""

    # Has somebody look at a workload.
    tell: Callable[[str], None]
    runner: Runner
    schedules: Schedules
    # What instances may reserve in all.
    measure: Callable[[], Awaitable[Capacity | None]]


@asynccontextmanager
async def running(settings: RuntimeSettings | None = None, *, policy: Policy | None = None) -> AsyncIterator[None]:
    """Runs the service until the context is left; then stops the apps, where `stop_on_exit` says so, and drains.

    `policy` is for tests that have no time.
    """
    settings = settings or config.load(RuntimeSettings)
    cluster = config.load(KubernetesSettings) if settings.driver == "kubernetes" else None
    gitops = config.load(GitOpsSettings)
    check(gitops, driver=settings.driver, mode=cluster.mode if cluster else "direct")
    await migrate("runtime", settings.database_url)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database.open(settings.database_url, pool_size=_POOL_SIZE))
        streams = await stack.enter_async_context(Streams.open(settings.redis_url))
        outbox = Outbox(database, streams, producing=[RUNTIME_EVENTS])
        await stack.enter_async_context(outbox.relaying())
        common = _Common(settings, policy or _policy(settings, cluster), steady_clock(), database, streams, outbox)
        kind = _on_this_machine(common) if cluster is None else _on_cluster(common, cluster, gitops)
        parts = await stack.enter_async_context(kind)
        address = settings.listen or config.address("runtime")
        await stack.enter_async_context(serving(address, _servers(common, parts)))
        yield


def _servers(common: _Common, parts: _Parts) -> list[Registration]:
    """What is served, and on what."""
    settings, clock = common.settings, common.clock
    store = PostgresStore(common.database, common.outbox)
    runs = types_pb2.ARTIFACT_KIND_IMAGE if settings.driver == "kubernetes" else types_pb2.ARTIFACT_KIND_APP
    defaults = Defaults(settings.default_memory_bytes, settings.default_ready_timeout_s, runs)
    server = RuntimeServer(Handlers(store, parts.tell, clock, measure=parts.measure), defaults=defaults, clock=clock)
    commands = Commands(store, parts.runner, in_all=settings.commands_at_once)
    return [
        (runtime_pb2_grpc.add_RuntimeServiceServicer_to_server, server),
        (commands_pb2_grpc.add_CommandServiceServicer_to_server, CommandServer(commands, parts.schedules, clock=clock)),
    ]


def _policy(settings: RuntimeSettings, cluster: KubernetesSettings | None) -> Policy:
    """On a cluster looking costs nothing but is seldom news, and a release that was replaced stays as the way back."""
    if cluster is None:
        return Policy(grace_s=settings.grace_s)
    return Policy(grace_s=settings.grace_s, drain_s=cluster.way_back_s, start_probe_s=1.0, start_slow_probe_s=1.0)


async def _process_options(settings: RuntimeSettings) -> ProcessOptions:
    folder = Path(settings.apps_folder) if settings.apps_folder else config.home() / "apps"
    private = (config.home(), folder, *ObjectStore.folders(settings.objects_url))
    # Running it for the first time may take a while.
    bubblewrap = await asyncio.to_thread(sandbox.usable, settings.sandbox)
    return ProcessOptions(
        folder=folder.resolve(),
        sandbox=sandbox_for(bubblewrap, settings.search_path, private=private, shared=settings.shared_folders),
        first_port=settings.first_port,
        last_port=settings.last_port,
        max_processes=settings.max_processes,
        search_path=settings.search_path,
    )


@asynccontextmanager
async def _on_this_machine(common: _Common) -> AsyncIterator[_Parts]:
    """The driver `process`, with the agent that ships what the apps write, and what runs their schedules."""
    settings = common.settings
    options = await _process_options(settings)
    async with AsyncExitStack() as stack:
        objects = await stack.enter_async_context(ObjectStore.open(settings.objects_url))
        releases = Releases(options.folder, objects)
        spawner = Spawner(options, releases, common.sealer)
        driver = ProcessDriver(spawner, releases, on_change=lambda one: reconciler.wake(one))  # noqa: PLW0108 - made below
        logs = FileLogs(driver.logs)
        reconciler = Reconciler(PostgresStore(common.database, common.outbox), driver, policy=common.policy, clock=common.clock)

        def writes(key: InstanceKey) -> bool:
            return driver.is_running(key) or logs.is_open(key)

        await stack.enter_async_context(driver.running_here())
        shipping = AgentOptions(unshipped_bytes=settings.unshipped_log_bytes)
        agent = LogAgent(driver.logs, common.streams, is_running=writes, options=shipping)
        await stack.enter_async_context(agent.running())
        if settings.stop_on_exit:
            stack.push_async_callback(reconciler.suspend)
        await stack.enter_async_context(reconciler.running())
        runner, schedules = ProcessRunner(spawner, releases), PostgresSchedules(common.database)
        await stack.enter_async_context(Scheduler(schedules, runner, logs, clock=common.clock).running())
        yield _Parts(reconciler.wake, runner, schedules, driver.capacity)


@asynccontextmanager
async def _on_cluster(common: _Common, cluster: KubernetesSettings, gitops: GitOpsSettings) -> AsyncIterator[_Parts]:
    """The driver `kubernetes`, on the cluster that KUBECONFIG names or that this process runs in.

    What runs there does not end with the platform. Of several runtimes the holder of the lease looks after it.
    """
    # Its typed client takes half a second to load, which one machine has no use for.
    from shipoff.runtime.adapters.kubernetes import on_cluster, shipping_logs
    from shipoff.runtime.adapters.logpositions import PostgresPositions

    lease = Lease(common.database, "reconciler", lease_s=common.settings.lease_s)
    fenced = PostgresStore(common.database, common.outbox, check=lease.check)
    wakes = Wakes(common.streams)
    made = on_cluster(
        cluster,
        common.sealer,
        grace_s=common.settings.grace_s,
        clock=common.clock,
        on_change=lambda one: reconciler.wake(one),  # noqa: PLW0108 - made below
        gitops=gitops,
        copies=config.home() / "gitops",
    )
    async with made as (driver, runner, schedules):
        reconciler = Reconciler(fenced, driver, policy=common.policy, clock=common.clock, may_act=lease.is_held)

        @asynccontextmanager
        async def lead() -> AsyncIterator[None]:
            shipping = shipping_logs(cluster, driver, common.streams, PostgresPositions(common.database))
            async with driver.following(), wakes.listening(reconciler.wake), reconciler.running(), shipping:
                yield

        async with wakes.telling(), lease.leading(lead):
            yield _Parts(wakes.tell, runner, schedules, driver.capacity)
