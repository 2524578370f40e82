"""The build service's composition root."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from shipoff.build.adapters.assignment import Limits
from shipoff.build.adapters.child_process import ChildProcessLauncher, Workplace
from shipoff.build.adapters.images import images
from shipoff.build.adapters.peers import RemoteDetector, StreamedLog
from shipoff.build.adapters.postgres import PostgresBuildStore
from shipoff.build.conversation import Services
from shipoff.build.domain import Rules
from shipoff.build.handlers import Bells, Builds, Transfers
from shipoff.build.ports import BuilderLauncher
from shipoff.build.reconciler import Reconciler
from shipoff.build.reuse import Reuse
from shipoff.build.server import BuilderServer, BuildServer
from shipoff.build.settings import BuildSettings, JobSettings
from shipoff.common import sandbox
from shipoff.common.config import address, home, load
from shipoff.common.lifecycle import looping
from shipoff.common.objects import ObjectStore
from shipoff.common.outbox import Outbox
from shipoff.common.postgres import Database, migrate
from shipoff.common.rpc import channel, serving
from shipoff.common.sealing import Sealer
from shipoff.common.streams import DEPLOYMENT_PROGRESS, Streams
from shipoff.common.tls import authority
from shipoff.contracts.build.v1 import build_pb2_grpc
from shipoff.contracts.detector.v1 import detector_pb2_grpc


@asynccontextmanager
async def running(settings: BuildSettings | None = None) -> AsyncIterator[None]:
    """Runs the service until the context is left. Builders go on without it, and come back to the next one."""
    settings = settings or load(BuildSettings)
    sealer = Sealer(settings.master_key.get_secret_value())
    await migrate("build", settings.database_url)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database.open(settings.database_url, pool_size=settings.pool_size))
        streams = await stack.enter_async_context(Streams.open(settings.redis_url))
        objects = await stack.enter_async_context(ObjectStore.open(settings.objects_url))
        detector = detector_pb2_grpc.DetectorServiceStub(await stack.enter_async_context(channel(address("detector"))))
        outbox = Outbox(database, streams, producing=[DEPLOYMENT_PROGRESS])
        store, bells = PostgresBuildStore(database, outbox), Bells()
        launcher, rules = await stack.enter_async_context(_launching(settings, bells))
        reuse = Reuse(store, objects, sealer, _circumstances(settings))
        planner = _detector(detector, settings)
        services = Services(store, planner, StreamedLog(streams), sealer, reuse, bells, asyncio.Event())
        reconciler = Reconciler(store, launcher, objects, bells, rules=rules)
        builders = BuilderServer(services, _transfers(store, objects, settings))

        await stack.enter_async_context(outbox.relaying())
        if not settings.keep_builders:
            stack.push_async_callback(reconciler.stop_builders)
        await stack.enter_async_context(_builders_served(settings.builder_address, builders))
        stack.callback(services.closing.set)
        stack.push_async_callback(reconciler.close)
        await stack.enter_async_context(
            looping("build reconciler", reconciler.look, every_s=reconciler.pause_s, wake=bells.reconciler)
        )
        registration = (build_pb2_grpc.add_BuildServiceServicer_to_server, BuildServer(Builds(store, bells)))
        await stack.enter_async_context(serving(settings.listen or address("build"), [registration]))
        yield


@asynccontextmanager
async def _builders_served(listen: str, builders: BuilderServer) -> AsyncIterator[None]:
    """Serves builders; they run under accounts of their own, so a socket is open to all: the token decides."""
    registration = (build_pb2_grpc.add_BuilderServiceServicer_to_server, builders)
    async with serving(listen, [registration]):
        if listen.startswith("unix:"):
            _open_to_all(Path(listen.removeprefix("unix:")))
        yield


def _detector(stub: detector_pb2_grpc.DetectorServiceStub, settings: BuildSettings) -> RemoteDetector:
    return RemoteDetector(stub, builds_images=settings.builds_images)


def _circumstances(settings: BuildSettings) -> str:
    """What the operator set that decides what a build leaves."""
    named = (settings.executor, settings.registry, settings.base_images, settings.registry_mirrors, settings.platforms)
    return json.dumps([*named, settings.provenance, settings.sbom_generator])


def _transfers(store: PostgresBuildStore, objects: ObjectStore, settings: BuildSettings) -> Transfers:
    return Transfers(store, objects, settings.artifact_bytes, settings.registry if settings.builds_images else "")


def _open_to_all(socket: Path) -> None:
    socket.parent.chmod(0o711)
    socket.chmod(0o666)


@asynccontextmanager
async def _launching(settings: BuildSettings, bells: Bells) -> AsyncIterator[tuple[BuilderLauncher, Rules]]:
    """What starts builders, and how long things may take there."""
    if settings.builders == "process":
        # Running it for the first time may take a while.
        bubblewrap = await asyncio.to_thread(sandbox.usable, settings.sandbox)
        yield ChildProcessLauncher(_workplace(settings, bubblewrap)), Rules(lease_s=settings.lease_s)
        return
    # Its typed client takes half a second to load, which one machine has no use for.
    from shipoff.build.adapters.kubernetes import on_cluster

    jobs = load(JobSettings)
    async with on_cluster(settings, jobs, _limits(settings), on_change=bells.reconciler.set) as launcher:
        yield launcher, Rules(lease_s=settings.lease_s, launch_s=jobs.begin_s, begin_s=jobs.begin_s)


def _limits(settings: BuildSettings) -> Limits:
    return Limits(
        memory_bytes=settings.memory_bytes,
        processes=settings.processes,
        disk_bytes=settings.disk_bytes,
        free_bytes=settings.free_bytes,
        output_bytes=settings.output_bytes,
        source_bytes=settings.source_bytes,
        source_files=settings.source_files,
        artifact_bytes=settings.artifact_bytes,
    )


def _workplace(settings: BuildSettings, bubblewrap: str) -> Workplace:
    return Workplace(
        folder=Path(settings.builds_folder).resolve(),
        address=settings.builder_address,
        environment=settings.passed_environment(),
        allow_hosts=settings.allowed_hosts,
        patience_s=settings.patience_s,
        limits=_limits(settings),
        sandbox=bubblewrap,
        private=(home(), *ObjectStore.folders(settings.objects_url)),
        images=images(settings),
        authority="" if settings.builder_address.startswith("unix:") else authority(),
    )
