"""The other services over gRPC: ports.Outside. Every call is idempotent by the deployment's id, attempt or fence."""

from __future__ import annotations

from dataclasses import dataclass

from shipoff.contracts.build.v1 import build_pb2, build_pb2_grpc
from shipoff.contracts.cdn.v1 import cdn_pb2, cdn_pb2_grpc
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from shipoff.contracts.types.v1 import types_pb2
from shipoff.orchestrator import messages
from shipoff.orchestrator.domain import Deployment, EndpointsReady, Event, ProvisionFailed, Resources
from shipoff.orchestrator.records import Record

# Unpacking a large site takes its time.
_PUBLISH_S = 300.0


@dataclass(frozen=True)
class Services:
    """The stubs of what the orchestrator calls."""

    build: build_pb2_grpc.BuildServiceStub
    runtime: runtime_pb2_grpc.RuntimeServiceStub
    cdn: cdn_pb2_grpc.CdnServiceStub
    # What a deployment's release command is given.
    release_timeout_s: int

    async def capacity(self) -> Resources:
        """What apps may have of the cluster that they run on."""
        answer = await self.runtime.GetCapacity(runtime_pb2.GetCapacityRequest())
        return Resources(answer.capacity.cpu_millis, answer.capacity.memory_bytes)

    async def start_build(self, record: Record, *, limits: Resources, timeout_s: int) -> None:
        request = events_pb2.DeploymentRequested.FromString(record.request)
        await self.build.StartBuild(
            build_pb2.StartBuildRequest(
                deployment_id=record.deployment.id,
                attempt=record.deployment.attempt,
                project_id=record.deployment.project_id,
                team_id=record.deployment.team_id,
                source=request.source,
                configuration=request.configuration,
                limits=types_pb2.Resources(cpu_millis=limits.cpu_millis, memory_bytes=limits.memory_bytes),
                timeout_s=request.configuration.build.timeout_s or timeout_s,
                # Why it is built again, where it is.
                notice=record.deployment.reason,
            )
        )

    async def cancel_build(self, deployment_id: str, attempt: int) -> None:
        await self.build.CancelBuild(build_pb2.CancelBuildRequest(deployment_id=deployment_id, attempt=attempt))

    async def publish(self, record: Record) -> None:
        artifact = types_pb2.Artifact.FromString(record.deployment.artifact)
        request = cdn_pb2.PublishReleaseRequest(deployment_id=record.deployment.id, artifact=artifact)
        await self.cdn.PublishRelease(request, timeout=_PUBLISH_S)

    async def apply_workload(self, record: Record) -> None:
        await self.runtime.ApplyWorkload(runtime_pb2.ApplyWorkloadRequest(workload=_workload(record, self.release_timeout_s)))

    async def scale_workload(self, deployment_id: str, replicas: int) -> None:
        await self.runtime.ScaleWorkload(runtime_pb2.ScaleWorkloadRequest(deployment_id=deployment_id, replicas=replicas))

    async def pause_workload(self, deployment_id: str, *, paused: bool) -> None:
        await self.runtime.PauseWorkload(runtime_pb2.PauseWorkloadRequest(deployment_id=deployment_id, paused=paused))

    async def stop_workload(self, deployment_id: str) -> None:
        await self.runtime.StopWorkload(runtime_pb2.StopWorkloadRequest(deployment_id=deployment_id))

    async def set_route(self, record: Record, fence: int) -> None:
        await self.cdn.SetRoute(cdn_pb2.SetRouteRequest(route=_route(record, fence)))

    async def remove_route(self, deployment: Deployment) -> None:
        await self.cdn.RemoveRoute(
            cdn_pb2.RemoveRouteRequest(
                project_id=deployment.project_id, environment=deployment.environment, deployment_id=deployment.id
            )
        )

    async def build_outcome(self, deployment: Deployment) -> Event | None:
        request = build_pb2.GetBuildRequest(deployment_id=deployment.id, attempt=deployment.attempt)
        answer = await self.build.GetBuild(request)
        if answer.state == build_pb2.BUILD_STATE_SUCCEEDED:
            return messages.build_succeeded(answer.succeeded)
        return messages.build_failed(answer.failed) if answer.state == build_pb2.BUILD_STATE_FAILED else None

    async def workload_outcome(self, deployment: Deployment) -> Event | None:
        answer = await self.runtime.GetWorkload(runtime_pb2.GetWorkloadRequest(deployment_id=deployment.id))
        if answer.phase == runtime_pb2.WORKLOAD_PHASE_FAILED:
            return ProvisionFailed(answer.reason or "it failed to start")
        if answer.phase != runtime_pb2.WORKLOAD_PHASE_READY:
            return None
        ready = [instance.endpoint for instance in answer.instances if instance.ready and instance.endpoint.port]
        return EndpointsReady(answer.revision, messages.endpoints(ready))


def _workload(record: Record, release_timeout_s: int) -> runtime_pb2.Workload:
    request = events_pb2.DeploymentRequested.FromString(record.request)
    plan = types_pb2.Plan.FromString(record.deployment.plan)
    return runtime_pb2.Workload(
        deployment_id=record.deployment.id,
        project_id=record.deployment.project_id,
        project_name=record.project_name,
        team_id=record.deployment.team_id,
        environment=record.deployment.environment,
        artifact=types_pb2.Artifact.FromString(record.deployment.artifact),
        processes=plan.processes,
        app_root=plan.app_root,
        configuration=_merged(request.configuration, plan, record.deployment.replicas),
        hosts=request.hosts,
        port=plan.port,
        release_timeout_s=release_timeout_s if messages.runs_release_command(request) else 0,
        requested_by=request.requested_by[:255],
        why=_why(request),
    )


def _why(request: events_pb2.DeploymentRequested) -> str:
    """What it was asked for, in a line: "push of 1a2b3c4d5e: Mend the header"."""
    trigger = types_pb2.Trigger.Name(request.trigger).removeprefix("TRIGGER_").lower()
    commit = request.source.git.commit[:10] if request.source.WhichOneof("kind") == "git" else ""
    title = request.commit_message.partition("\n")[0]
    words = f"{trigger} of {commit}: {title}" if commit else trigger
    return words[:500].rstrip(": ")


def _merged(configuration: types_pb2.Configuration, plan: types_pb2.Plan, replicas: int) -> types_pb2.Configuration:
    """What the project says about its health path goes before what the plan found; what it was scaled to before both."""
    merged = types_pb2.Configuration()
    merged.CopyFrom(configuration)
    merged.run.health_path = configuration.run.health_path or plan.health_path
    merged.run.replicas = replicas or configuration.run.replicas
    return merged


def _route(record: Record, fence: int) -> cdn_pb2.Route:
    request = events_pb2.DeploymentRequested.FromString(record.request)
    route = cdn_pb2.Route(
        project_id=record.deployment.project_id,
        environment=record.deployment.environment,
        deployment_id=record.deployment.id,
        hosts=request.hosts,
        fence=fence,
    )
    if record.deployment.static:
        plan = types_pb2.Plan.FromString(record.deployment.plan)
        route.static.spa = plan.mode == types_pb2.PLAN_MODE_SPA
    else:
        route.proxy.paused = record.deployment.paused
        route.proxy.endpoints.extend(types_pb2.Endpoint(host=e.host, port=e.port) for e in record.deployment.endpoints)
    return route
