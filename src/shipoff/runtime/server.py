"""RuntimeService over gRPC: contracts in, domain out, nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import grpc.aio

from shipoff.common import cron
from shipoff.common.errors import InvalidInput
from shipoff.common.telemetry import current
from shipoff.contracts.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from shipoff.contracts.types.v1 import types_pb2
from shipoff.runtime.domain import WEB, Artifact, Instance, InstanceState, Phase, Process, Workload
from shipoff.runtime.handlers import Handlers
from shipoff.runtime.schedules import Schedule

_Context = grpc.aio.ServicerContext[Any, Any]
# It becomes part of file names.
_PROCESS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")

_IMAGE = re.compile(r"[a-z0-9][a-z0-9._:/-]{0,254}@sha256:[0-9a-f]{64}")
_KINDS: dict[int, str] = {types_pb2.ARTIFACT_KIND_APP: "an app's folder", types_pb2.ARTIFACT_KIND_IMAGE: "an image"}

_PHASES = {
    Phase.STARTING: runtime_pb2.WORKLOAD_PHASE_STARTING,
    Phase.READY: runtime_pb2.WORKLOAD_PHASE_READY,
    Phase.DEGRADED: runtime_pb2.WORKLOAD_PHASE_DEGRADED,
    Phase.FAILED: runtime_pb2.WORKLOAD_PHASE_FAILED,
    Phase.STOPPING: runtime_pb2.WORKLOAD_PHASE_STOPPING,
    Phase.STOPPED: runtime_pb2.WORKLOAD_PHASE_STOPPED,
}


@dataclass(frozen=True)
class Defaults:
    """What a workload gets that says nothing about it, and what kind of artifact can be run here."""

    memory_bytes: int
    ready_timeout_s: int
    runs: int = types_pb2.ARTIFACT_KIND_APP


class RuntimeServer(runtime_pb2_grpc.RuntimeServiceServicer):
    """The servicer."""

    def __init__(self, handlers: Handlers, *, defaults: Defaults, clock: Callable[[], float]) -> None:
        self._handlers = handlers
        self._defaults = defaults
        self._clock = clock

    async def ApplyWorkload(
        self, request: runtime_pb2.ApplyWorkloadRequest, context: _Context
    ) -> runtime_pb2.ApplyWorkloadResponse:
        await self._handlers.apply(workload_of(request.workload, defaults=self._defaults, now=self._clock()))
        return runtime_pb2.ApplyWorkloadResponse()

    async def GetCapacity(self, request: runtime_pb2.GetCapacityRequest, context: _Context) -> runtime_pb2.GetCapacityResponse:
        capacity = await self._handlers.capacity()
        given = types_pb2.Resources(cpu_millis=capacity.cpu_millis, memory_bytes=capacity.memory_bytes)
        return runtime_pb2.GetCapacityResponse(capacity=given)

    async def StopWorkload(
        self, request: runtime_pb2.StopWorkloadRequest, context: _Context
    ) -> runtime_pb2.StopWorkloadResponse:
        await self._handlers.stop(request.deployment_id)
        return runtime_pb2.StopWorkloadResponse()

    async def ScaleWorkload(
        self, request: runtime_pb2.ScaleWorkloadRequest, context: _Context
    ) -> runtime_pb2.ScaleWorkloadResponse:
        await self._handlers.scale(request.deployment_id, request.replicas)
        return runtime_pb2.ScaleWorkloadResponse()

    async def RestartWorkload(
        self, request: runtime_pb2.RestartWorkloadRequest, context: _Context
    ) -> runtime_pb2.RestartWorkloadResponse:
        await self._handlers.restart(request.deployment_id)
        return runtime_pb2.RestartWorkloadResponse()

    async def PauseWorkload(
        self, request: runtime_pb2.PauseWorkloadRequest, context: _Context
    ) -> runtime_pb2.PauseWorkloadResponse:
        await self._handlers.pause(request.deployment_id, paused=request.paused)
        return runtime_pb2.PauseWorkloadResponse()

    async def GetWorkload(self, request: runtime_pb2.GetWorkloadRequest, context: _Context) -> runtime_pb2.GetWorkloadResponse:
        workload, instances = await self._handlers.get(request.deployment_id)
        return runtime_pb2.GetWorkloadResponse(
            phase=runtime_pb2.WORKLOAD_PHASE_PAUSED if workload.wanted and workload.paused else _PHASES[workload.phase],
            reason=workload.reason,
            replicas=workload.replicas,
            revision=workload.revision,
            instances=[_instance(one) for one in instances],
        )


def workload_of(message: runtime_pb2.Workload, *, defaults: Defaults, now: float) -> Workload:
    """The workload that a request describes. Raises InvalidInput."""
    run = message.configuration.run
    workload = Workload(
        deployment_id=message.deployment_id,
        project_id=message.project_id,
        project_name=message.project_name,
        team_id=message.team_id,
        environment=message.environment,
        artifact=_artifact(message.artifact, defaults.runs),
        processes=_processes(message, own_command=defaults.runs == types_pb2.ARTIFACT_KIND_IMAGE),
        app_root=_app_root(message.app_root),
        variables=message.configuration.variables.SerializeToString(),
        replicas=run.replicas or 1,
        cpu_millis=run.cpu_millis,
        memory_bytes=run.memory_bytes or defaults.memory_bytes,
        health_path=run.health_path,
        ready_timeout_s=float(run.ready_timeout_s or defaults.ready_timeout_s),
        ready_deadline=now,
        release_timeout_s=float(message.release_timeout_s),
        hosts=tuple(message.hosts),
        port=message.port,
        schedules=tuple(
            Schedule(one.name, cron.checked(one.cron, field="workload.configuration.run.schedules.cron"), tuple(one.argv))
            for one in run.schedules
        ),
        requested_by=message.requested_by,
        why=message.why,
        request_id=current().request_id,
        traceparent=current().traceparent,
    )
    return replace(workload, ready_deadline=now + workload.timeout_s)


def _artifact(message: types_pb2.Artifact, runs: int) -> Artifact:
    if message.kind == types_pb2.ARTIFACT_KIND_IMAGE != runs:
        reason = f"the image {message.object_key} was built and pushed, but this platform runs apps as processes, not images"
        raise InvalidInput(f"{reason}: set SHIPOFF_BUILD_EXECUTOR=native", field="workload.artifact.kind")
    if message.kind != runs:
        raise InvalidInput(f"only {_KINDS[runs]} can be run here", field="workload.artifact.kind")
    if runs == types_pb2.ARTIFACT_KIND_IMAGE and not _IMAGE.fullmatch(message.object_key):
        raise InvalidInput("an image is run by its reference with a digest", field="workload.artifact.object_key")
    return Artifact(message.kind, message.object_key, message.digest, message.size_bytes)


def _processes(message: runtime_pb2.Workload, *, own_command: bool) -> tuple[Process, ...]:
    """The processes; with `own_command`, one without arguments runs what its image says, and an image alone is a `web`."""
    processes = tuple(Process(one.name, tuple(one.command.argv)) for one in message.processes)
    if own_command and not processes:
        return (Process(WEB, ()),)
    for process in processes:
        if not _PROCESS_NAME.fullmatch(process.name):
            raise InvalidInput(f"{process.name!r} is no name for a process", field="workload.processes.name")
        if own_command and not process.argv:
            continue
        if not process.argv or not process.argv[0] or any("\0" in part for part in process.argv):
            raise InvalidInput(f"process {process.name} has no command", field="workload.processes.command")
    if len({process.name for process in processes}) != len(processes):
        raise InvalidInput("two processes have the same name", field="workload.processes.name")
    return processes


def _app_root(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise InvalidInput(f"{path!r} leads outside the artifact", field="workload.app_root")
    return path or "."


def _instance(instance: Instance) -> runtime_pb2.Instance:
    message = runtime_pb2.Instance(
        process=instance.key.process,
        index=instance.key.index,
        ready=instance.state is InstanceState.READY,
        restarts=instance.restarts,
        last_exit=instance.last_exit,
    )
    if instance.serves and instance.port:
        message.endpoint.CopyFrom(types_pb2.Endpoint(host=instance.host, port=instance.port))
    if instance.pid:
        message.started_at.FromMilliseconds(int(instance.started_at * 1000))
    return message
