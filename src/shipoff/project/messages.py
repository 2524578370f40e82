"""Contracts ↔ domain. Used by server.py and the adapters."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.project.domain import (
    ArchiveSource,
    BuildSettings,
    Configuration,
    DeploymentRequest,
    GitSource,
    RunSettings,
    Source,
    Trigger,
)


def timestamp(moment: datetime | None) -> Timestamp | None:
    """A protobuf timestamp."""
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def build_settings(message: types_pb2.BuildSettings) -> BuildSettings:
    return BuildSettings(
        message.root_directory,
        message.install_command,
        message.build_command,
        message.start_command,
        message.output_directory,
        message.provider,
        message.package_manager,
        message.dockerfile,
        message.timeout_s,
        message.queue_timeout_s,
    )


def run_settings(message: types_pb2.RunSettings) -> RunSettings:
    return RunSettings(
        message.replicas,
        message.cpu_millis,
        message.memory_bytes,
        message.health_path,
        message.ready_timeout_s,
        bake_s=message.bake_s,
        no_automatic_rollback=message.no_automatic_rollback,
    )


def source(message: types_pb2.Source) -> Source:
    if message.WhichOneof("kind") == "archive":
        archive = message.archive
        return ArchiveSource(archive.digest, archive.object_key, archive.size_bytes)
    return GitSource(message.git.url, message.git.ref, message.git.commit)


def source_message(value: Source) -> types_pb2.Source:
    if isinstance(value, ArchiveSource):
        return types_pb2.Source(archive=types_pb2.ArchiveSource(**asdict(value)))
    return types_pb2.Source(git=types_pb2.GitSource(**asdict(value)))


def configuration_message(value: Configuration) -> types_pb2.Configuration:
    return types_pb2.Configuration(
        version=value.version,
        variables=types_pb2.SealedVariables.FromString(value.variables),
        build=types_pb2.BuildSettings(**asdict(value.build)),
        run=types_pb2.RunSettings(**asdict(value.run)),
    )


def request_message(value: DeploymentRequest) -> events_pb2.DeploymentRequested:
    """The event, which is also the record."""
    event = events_pb2.DeploymentRequested(
        deployment_id=value.deployment_id,
        project_id=value.project_id,
        project_name=value.project_name,
        team_id=value.team_id,
        environment=value.environment,
        source=source_message(value.source),
        branch=value.branch,
        commit_message=value.commit_message,
        trigger=types_pb2.Trigger.ValueType(value.trigger),
        configuration=configuration_message(value.configuration),
        requested_by=value.requested_by,
        requested_at=timestamp(value.requested_at),
        hosts=value.hosts,
    )
    event.configuration.no_cache = value.no_cache
    return event


def request(message: events_pb2.DeploymentRequested) -> DeploymentRequest:
    """The opposite of request_message."""
    configuration = message.configuration
    return DeploymentRequest(
        deployment_id=message.deployment_id,
        project_id=message.project_id,
        project_name=message.project_name,
        team_id=message.team_id,
        environment=message.environment,
        hosts=tuple(message.hosts),
        source=source(message.source),
        trigger=Trigger(message.trigger),
        requested_by=message.requested_by,
        configuration=Configuration(
            configuration.version,
            build_settings(configuration.build),
            run_settings(configuration.run),
            configuration.variables.SerializeToString(),
        ),
        requested_at=message.requested_at.ToDatetime(UTC),
        branch=message.branch,
        commit_message=message.commit_message,
        no_cache=configuration.no_cache,
    )
