"""The composition root of the runtime."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
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
from shipoff.runtime.adapters.spawning import ProcessOptions, Spawner
from shipoff.runtime.adapters.wakes import Wakes
from shipoff.runtime.commands import Commands
from shipoff.runtime.commands_server import CommandServer
from shipoff.runtime.domain import Policy
from shipoff.runtime.gitops_settings import GitOpsSettings, check
from shipoff.runtime.handlers import Handlers
from shipoff.runtime.ports import Driver, Runner
from shipoff.runtime.reconciler import Reconciler
from shipoff.runtime.server import Defaults, RuntimeServer
from shipoff.runtime.settings import KubernetesSettings, RuntimeSettings

Shipping = Callable[[], AbstractAsyncContextManager[None]]

# Probes and stops under way keep few connections busy.
_POOL_SIZE = 4


def steady_clock() -> Callable[[], float]:
    """Seconds since 1970 that never jump: the wall clock's time now, counted on by the monotonic clock."""
    origin = time.time() - time.monotonic()
    return lambda: origin + time.monotonic()


@asynccontextmanager
async def running(settings: RuntimeSettings | None = None, *, policy: Policy | None = None) -> AsyncIterator[None]:
    """Runs the service until the context is left; then stops the apps, where `stop_on_exit` says so, and drains.

    `policy` is for tests that have no time.
    """
    settings = settings or config.load(RuntimeSettings)
    cluster = config.load(KubernetesSettings) if settings.driver == "kubernetes" else None
    gitops = config.load(GitOpsSettings)
    check(gitops, driver=settings.driver, mode=cluster.mode if cluster else "direct")
    policy = policy or _policy(settings, cluster)
    clock = steady_clock()
    await migrate("runtime", settings.database_url)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database.open(settings.database_url, pool_size=_POOL_SIZE))
        streams = await stack.enter_async_context(Streams.open(settings.redis_url))
        outbox = Outbox(database, streams, producing=[RUNTIME_EVENTS])
        await stack.enter_async_context(outbox.relaying())
        store = PostgresStore(database, outbox)

        def wake(deployment_id: str) -> None:
            reconciler.wake(deployment_id)

        if cluster is not None:
            parts = _on_cluster(settings, cluster, gitops, (database, streams), clock=clock, wake=wake)
            driver, runner, shipping = await stack.enter_async_context(parts)
        else:
            objects = await stack.enter_async_context(ObjectStore.open(settings.objects_url))
            driver, runner = await stack.enter_async_context(_on_this_machine(settings, objects, streams, wake=wake))
        if cluster is None:
            reconciler = Reconciler(store, driver, policy=policy, clock=clock)
            if settings.stop_on_exit:
                stack.push_async_callback(reconciler.suspend)
            await stack.enter_async_context(reconciler.running())
            tell = reconciler.wake
        else:
            # What runs on a cluster does not end with the platform, and one of several looks after it.
            lease = Lease(database, "reconciler", lease_s=settings.lease_s)
            fenced = PostgresStore(database, outbox, check=lease.check)
            reconciler = Reconciler(fenced, driver, policy=policy, clock=clock, may_act=lease.is_held)
            wakes = Wakes(streams)
            await stack.enter_async_context(wakes.telling())
            lead = partial(_leading, driver, reconciler, wakes, shipping)
            await stack.enter_async_context(lease.leading(lead))
            tell = wakes.tell

        handlers = Handlers(store, tell, clock, measure=driver.capacity)
        runs = types_pb2.ARTIFACT_KIND_IMAGE if settings.driver == "kubernetes" else types_pb2.ARTIFACT_KIND_APP
        defaults = Defaults(settings.default_memory_bytes, settings.default_ready_timeout_s, runs)
        server = RuntimeServer(handlers, defaults=defaults, clock=clock)
        address = settings.listen or config.address("runtime")
        commands = CommandServer(Commands(store, runner, in_all=settings.commands_at_once))
        registrations: list[Registration] = [
            (runtime_pb2_grpc.add_RuntimeServiceServicer_to_server, server),
            (commands_pb2_grpc.add_CommandServiceServicer_to_server, commands),
        ]
        await stack.enter_async_context(serving(address, registrations))
        yield


@asynccontextmanager
async def _leading(driver: Driver, reconciler: Reconciler, wakes: Wakes, shipping: Shipping) -> AsyncIterator[None]:
    """What the leader does: follows the cluster, listens to the others, brings about what is wanted, and ships logs."""
    async with driver.following(), wakes.listening(reconciler.wake), reconciler.running(), shipping():
        yield


def _policy(settings: RuntimeSettings, cluster: KubernetesSettings | None) -> Policy:
    """On a cluster looking costs nothing but is seldom news, and a release that was replaced stays as the way back."""
    if cluster is None:
        return Policy(grace_s=settings.grace_s)
    return Policy(grace_s=settings.grace_s, drain_s=cluster.way_back_s, start_probe_s=1.0, start_slow_probe_s=1.0)


@asynccontextmanager
async def _on_this_machine(
    settings: RuntimeSettings, objects: ObjectStore, streams: Streams, *, wake: Callable[[str], None]
) -> AsyncIterator[tuple[Driver, Runner]]:
    """The driver `process`, with the agent that ships what the apps write."""
    folder = Path(settings.apps_folder) if settings.apps_folder else config.home() / "apps"
    private = (config.home(), folder, *ObjectStore.folders(settings.objects_url))
    # Running it for the first time may take a while.
    bubblewrap = await asyncio.to_thread(sandbox.usable, settings.sandbox)
    options = ProcessOptions(
        folder=folder.resolve(),
        sandbox=sandbox_for(bubblewrap, settings.search_path, private=private, shared=settings.shared_folders),
        first_port=settings.first_port,
        last_port=settings.last_port,
        max_processes=settings.max_processes,
        search_path=settings.search_path,
    )
    releases = Releases(options.folder, objects)
    spawner = Spawner(options, releases, Sealer(settings.master_key.get_secret_value()))
    driver = ProcessDriver(spawner, releases, on_change=wake)
    shipping = AgentOptions(unshipped_bytes=settings.unshipped_log_bytes)
    async with (
        driver.running_here(),
        LogAgent(driver.logs, streams, is_running=driver.is_running, options=shipping).running(),
    ):
        yield driver, ProcessRunner(spawner, releases)


@asynccontextmanager
async def _on_cluster(
    settings: RuntimeSettings,
    cluster: KubernetesSettings,
    gitops: GitOpsSettings,
    backing: tuple[Database, Streams],
    *,
    clock: Callable[[], float],
    wake: Callable[[str], None],
) -> AsyncIterator[tuple[Driver, Runner, Shipping]]:
    """The driver `kubernetes`, on the cluster that KUBECONFIG names or that this process runs in; and what ships its logs."""
    # Its typed client takes half a second to load, which one machine has no use for.
    from shipoff.runtime.adapters.kubernetes import on_cluster, shipping_logs
    from shipoff.runtime.adapters.logpositions import PostgresPositions

    sealer = Sealer(settings.master_key.get_secret_value())
    copies = config.home() / "gitops"
    async with on_cluster(
        cluster, sealer, grace_s=settings.grace_s, clock=clock, on_change=wake, gitops=gitops, copies=copies
    ) as (driver, runner):
        yield driver, runner, partial(shipping_logs, cluster, driver, backing[1], PostgresPositions(backing[0]))
