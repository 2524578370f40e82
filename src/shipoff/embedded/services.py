"""Starts services: in this process, or each as a child process of its own."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shipoff.common import config, rpc
from shipoff.common.errors import InvalidInput, ShipoffError, Unavailable
from shipoff.embedded.layout import Layout
from shipoff.embedded.process import Child, Program

# Who is called comes before who calls; the gateway, which lets people in, last.
SERVICES = ("identity", "project", "detector", "log", "cdn", "build", "runtime", "orchestrator", "worker", "gateway")

_START_S = 60.0
# Ten interpreters that start at once share the machine's cores.
_START_SEPARATE_S = 180.0
_STOP_S = 30.0

log = structlog.get_logger()


def chosen(names: Sequence[str]) -> list[str]:
    """The services by these names in their order, `all` or none being all. Raises InvalidInput for an unknown one."""
    if not names or "all" in names:
        return list(SERVICES)
    if unknown := sorted(set(names) - set(SERVICES)):
        raise InvalidInput(f"there is no service {unknown[0]!r}", field="SERVICE", remedy=f"one of: {', '.join(SERVICES)}, all")
    return [name for name in SERVICES if name in names]


@asynccontextmanager
async def running(names: Sequence[str]) -> AsyncIterator[None]:
    """Runs these services in this process until the block is left; then drains them, the last one first."""
    async with AsyncExitStack() as stack:
        for name in names:
            await stack.enter_async_context(_running(name))
        # What they are made of stays, and is a million objects: to look through it again takes the collector a tenth of a
        # second, in which nobody is answered.
        gc.freeze()
        try:
            yield
        finally:
            gc.unfreeze()


@asynccontextmanager
async def _running(name: str) -> AsyncIterator[None]:
    # Imported here, so that a process that runs one service does not load the others.
    service = importlib.import_module(f"shipoff.{name}.main").running()
    try:
        async with asyncio.timeout(_START_S):
            await service.__aenter__()
    except TimeoutError as error:
        raise Unavailable(f"the service {name} did not start within {_START_S:g} s") from error
    log.info("service started", service=name)
    try:
        yield
    finally:
        try:
            async with asyncio.timeout(_STOP_S):
                await service.__aexit__(None, None, None)
        except TimeoutError:
            log.warning("service did not stop in time", service=name, timeout_s=_STOP_S)


class ServiceProcess:
    """A service in a process of its own; it ends with the platform."""

    def __init__(self, layout: Layout, name: str) -> None:
        self.name = name
        self._program = Program(
            name=name,
            argv=(sys.executable, "-m", "shipoff", "serve", name),
            pid_file=layout.run / f"{name}.pid",
            log_file=layout.log / f"{name}.log",
            # The services' own settings and the person's PATH, which builds look for node and git on.
            environment={**os.environ, "SHIPOFF_HOME": str(layout.home)},
            stop_timeout_s=_STOP_S,
        )
        self._child: Child | None = None

    @property
    def child(self) -> Child | None:
        """The running process."""
        return self._child

    async def start(self) -> None:
        """Starts it and waits until it serves. Raises Unavailable when it does not."""
        self._child = await Child.start(self._program)
        deadline = asyncio.get_running_loop().time() + _START_SEPARATE_S
        while not await serves(self.name):
            self._child.check()
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable(f"the service {self.name} does not serve after {_START_SEPARATE_S:g} s")
            await asyncio.sleep(0.1)

    async def stop(self) -> None:
        """Drains and ends it."""
        if self._child is not None:
            await self._child.stop()


async def serves(name: str) -> bool:
    """Whether its health service says so (gRPC Health Checking Protocol)."""
    async with rpc.channel(config.address(name)) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2)
        except ShipoffError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
