"""What runs: status, workloads, log lines; and what the platform says about itself."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from shipoff.contracts.log.v1 import log_pb2
from shipoff.contracts.runtime.v1 import runtime_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.gateway.models.common import EnvironmentName, Incoming, Outgoing, moment, moment_or_none
from shipoff.gateway.models.deployments import DeploymentOut
from shipoff.gateway.models.projects import ProjectOut

LogSource = Literal["build", "app", "platform"]


class InstanceOut(Outgoing):
    process: str
    index: int
    ready: bool
    restarts: int
    started_at: datetime | None
    last_exit: str


class WorkloadOut(Outgoing):
    phase: str
    reason: str
    replicas: int
    instances: list[InstanceOut]


class StatusOut(Outgoing):
    project: ProjectOut
    live: DeploymentOut | None
    latest: DeploymentOut | None
    workload: WorkloadOut | None
    urls: list[str]


class ScaledOut(Outgoing):
    environment: str
    replicas: int
    deployment_id: str | None


class LiveIn(Incoming):
    environment: EnvironmentName = "production"


class LiveOut(Outgoing):
    environment: str
    deployment_id: str
    paused: bool


class LogEntryOut(Outgoing):
    position: int
    source: LogSource
    instance: int
    time: datetime
    channel: str
    text: str


class LogPageOut(Outgoing):
    items: list[LogEntryOut]
    more: bool


class WebhookOut(Outgoing):
    repeated: bool
    deployment_ids: list[str]
    ignored_because: str | None


class HealthOut(Outgoing):
    status: Literal["ok"] = "ok"


class InfoOut(Outgoing):
    version: str


def workload_out(workload: runtime_pb2.GetWorkloadResponse) -> WorkloadOut:
    """Without the instances' addresses: those are the platform's own."""
    return WorkloadOut(
        phase=runtime_pb2.WorkloadPhase.Name(workload.phase).removeprefix("WORKLOAD_PHASE_").lower(),
        reason=workload.reason,
        replicas=workload.replicas,
        instances=[
            InstanceOut(
                process=instance.process,
                index=instance.index,
                ready=instance.ready,
                restarts=instance.restarts,
                started_at=moment_or_none(instance.started_at),
                last_exit=instance.last_exit,
            )
            for instance in workload.instances
        ],
    )


def source_value(source: LogSource) -> types_pb2.LogSource.ValueType:
    return types_pb2.LogSource.Value(f"LOG_SOURCE_{source.upper()}")


def log_entry_out(entry: log_pb2.Entry) -> LogEntryOut:
    source = types_pb2.LogSource.Name(entry.source).removeprefix("LOG_SOURCE_").lower()
    return LogEntryOut(
        position=entry.position,
        source=source,  # type: ignore[arg-type]  # the contract's names are these
        instance=entry.instance,
        time=moment(entry.line.time),
        channel=entry.line.channel,
        text=entry.line.text,
    )
