"""The stubs of the services behind the gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from shipoff.common.config import address
from shipoff.common.rpc import channel
from shipoff.contracts.detector.v1.detector_pb2_grpc import DetectorServiceStub
from shipoff.contracts.identity.v1.identity_pb2_grpc import IdentityServiceStub
from shipoff.contracts.log.v1.log_pb2_grpc import LogServiceStub
from shipoff.contracts.orchestrator.v1.orchestrator_pb2_grpc import DeploymentServiceStub
from shipoff.contracts.project.v1.project_pb2_grpc import ProjectServiceStub
from shipoff.contracts.runtime.v1.commands_pb2_grpc import CommandServiceStub
from shipoff.contracts.runtime.v1.runtime_pb2_grpc import RuntimeServiceStub
from shipoff.contracts.worker.v1.worker_pb2_grpc import WorkerServiceStub


@dataclass(frozen=True)
class Clients:
    """Each call has a deadline of 10 s unless it says otherwise, and raises shipoff.common.errors."""

    identity: IdentityServiceStub
    project: ProjectServiceStub
    orchestrator: DeploymentServiceStub
    runtime: RuntimeServiceStub
    log: LogServiceStub
    worker: WorkerServiceStub
    detector: DetectorServiceStub
    # A connection of its own for each command: it lasts as long, and a connection's time is limited.
    commands: Callable[[], AbstractAsyncContextManager[CommandServiceStub]]


@asynccontextmanager
async def connected(address_of: Callable[[str], str] = address) -> AsyncIterator[Clients]:
    """Connects lazily: a service that is not up yet makes its calls Unavailable, not this."""
    async with AsyncExitStack() as stack:
        names = ("identity", "project", "orchestrator", "runtime", "log", "worker", "detector")
        channels = {name: await stack.enter_async_context(channel(address_of(name))) for name in names}
        yield Clients(
            identity=IdentityServiceStub(channels["identity"]),
            project=ProjectServiceStub(channels["project"]),
            orchestrator=DeploymentServiceStub(channels["orchestrator"]),
            runtime=RuntimeServiceStub(channels["runtime"]),
            log=LogServiceStub(channels["log"]),
            worker=WorkerServiceStub(channels["worker"]),
            detector=DetectorServiceStub(channels["detector"]),
            commands=partial(_commands, address_of("runtime")),
        )


@asynccontextmanager
async def _commands(address: str) -> AsyncIterator[CommandServiceStub]:
    async with channel(address) as opened:
        yield CommandServiceStub(opened)
