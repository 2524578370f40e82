"""What runs: status, scale, queue, and the history of logs."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from shipoff.common.errors import NotFound, PreconditionFailed
from shipoff.common.ids import new_id
from shipoff.contracts.log.v1 import log_pb2
from shipoff.contracts.orchestrator.v1 import orchestrator_pb2
from shipoff.contracts.project.v1 import project_pb2
from shipoff.contracts.runtime.v1 import runtime_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.gateway import audit
from shipoff.gateway.access import Access, ChangedProject, Platform, Reach, ViewedDeployment, ViewedProject, hosts_of
from shipoff.gateway.context import Gateway
from shipoff.gateway.deploying import newest
from shipoff.gateway.models.common import EnvironmentQuery
from shipoff.gateway.models.deployments import QueueOut, ScaleIn, queue_out
from shipoff.gateway.models.projects import RunIn, merged_run, project_out
from shipoff.gateway.models.running import (
    LiveIn,
    LiveOut,
    LogPageOut,
    LogSource,
    ScaledOut,
    StatusOut,
    WorkloadOut,
    log_entry_out,
    source_value,
    workload_out,
)
from shipoff.gateway.routing import guarded

router = guarded("running")

_FILES_ONLY = (types_pb2.PLAN_MODE_STATIC, types_pb2.PLAN_MODE_SPA)


async def _workload(gateway: Gateway, deployment_id: str) -> WorkloadOut | None:
    """None for a static site: nothing of it runs."""
    try:
        return workload_out(
            await gateway.clients.runtime.GetWorkload(runtime_pb2.GetWorkloadRequest(deployment_id=deployment_id))
        )
    except NotFound:
        return None


@router.get("/v1/projects/{project}/status")
async def status(project: ViewedProject, gateway: Platform, environment: EnvironmentQuery = "production") -> StatusOut:
    """What of the project is live in an environment, and how it does."""
    live = await newest(gateway, project.id, environment, state=types_pb2.DEPLOYMENT_STATE_PRODUCTION)
    latest = await newest(gateway, project.id, environment)
    return StatusOut(
        project=project_out(project, gateway.settings),
        live=await gateway.people.shown(live) if live else None,
        latest=await gateway.people.shown(latest) if latest else None,
        workload=await _workload(gateway, live.id) if live else None,
        urls=[gateway.settings.url(host) for host in hosts_of(project, environment)],
    )


@router.post("/v1/projects/{project}/scale")
async def scale(project: ChangedProject, body: ScaleIn, reach: Reach) -> ScaledOut:
    """Changes the number of instances: of what is live now, and of the deployments to come. 409 where there is no room."""
    clients = reach.gateway.clients
    live = await newest(reach.gateway, project.id, body.environment, state=types_pb2.DEPLOYMENT_STATE_PRODUCTION)
    scaled = False
    if live is not None and live.plan.mode in _FILES_ONLY:
        raise PreconditionFailed(
            f"{project.name} is a static site in {body.environment}: its files are served directly, and no instance runs",
            field="replicas",
            remedy="there is nothing to scale",
        )
    if live is not None:
        # First: it is refused where there is no room, and then nothing is changed.
        wanted = orchestrator_pb2.ScaleDeploymentRequest(deployment_id=live.id, replicas=body.replicas)
        scaled = (await clients.orchestrator.ScaleDeployment(wanted)).scaled
    run = merged_run(project.run, RunIn(replicas=body.replicas))
    await clients.project.UpdateProject(project_pb2.UpdateProjectRequest(project_id=project.id, run=run))
    detail = f"{body.environment}: {body.replicas}"
    await audit.record(reach, "project.scale", team_id=project.team_id, object_id=project.id, detail=detail)
    return ScaledOut(
        environment=body.environment, replicas=body.replicas, deployment_id=live.id if live is not None and scaled else None
    )


async def _live_app(gateway: Gateway, project: project_pb2.Project, environment: str) -> orchestrator_pb2.Deployment:
    """The deployment whose instances run there. Raises NotFound, PreconditionFailed for a static site."""
    live = await newest(gateway, project.id, environment, state=types_pb2.DEPLOYMENT_STATE_PRODUCTION)
    if live is None:
        raise NotFound(f"nothing of {project.name} is live in {environment}", remedy="deploy it: shipoff deploy")
    if live.plan.mode in _FILES_ONLY:
        raise PreconditionFailed(
            f"{project.name} is a static site in {environment}: its files are served directly, and no instance runs",
            field="environment",
        )
    return live


@router.post("/v1/projects/{project}/restart")
async def restart(project: ChangedProject, body: LiveIn, reach: Reach) -> LiveOut:
    """Replaces every instance of what is live, one after the other, each when its successor is ready."""
    live = await _live_app(reach.gateway, project, body.environment)
    if live.paused:
        raise PreconditionFailed(f"{project.name} is paused in {body.environment}", remedy="resume it: shipoff resume")
    await reach.gateway.clients.runtime.RestartWorkload(runtime_pb2.RestartWorkloadRequest(deployment_id=live.id))
    await audit.record(reach, "project.restart", team_id=project.team_id, object_id=live.id, detail=body.environment)
    return LiveOut(environment=body.environment, deployment_id=live.id, paused=False)


@router.post("/v1/projects/{project}/pause")
async def pause(project: ChangedProject, body: LiveIn, reach: Reach) -> LiveOut:
    """Stops every instance of what is live until it is resumed or deployed anew; its address answers 503 meanwhile."""
    return await _pause(reach, project, body.environment, paused=True)


@router.post("/v1/projects/{project}/resume")
async def resume(project: ChangedProject, body: LiveIn, reach: Reach) -> LiveOut:
    """Starts the instances of what was paused. 409 where there is no room for them."""
    return await _pause(reach, project, body.environment, paused=False)


async def _pause(reach: Access, project: project_pb2.Project, environment: str, *, paused: bool) -> LiveOut:
    live = await _live_app(reach.gateway, project, environment)
    request = orchestrator_pb2.PauseDeploymentRequest(deployment_id=live.id, paused=paused)
    await reach.gateway.clients.orchestrator.PauseDeployment(request)
    action = "project.pause" if paused else "project.resume"
    await audit.record(reach, action, team_id=project.team_id, object_id=live.id, detail=environment)
    return LiveOut(environment=environment, deployment_id=live.id, paused=paused)


@router.get("/v1/queue")
async def queue(reach: Reach) -> QueueOut:
    """What of the caller's teams waits and builds, and the budget."""
    # The contract reads no team as every team: a caller in none asks for one that is nobody's.
    team_ids = list(reach.principal.roles) or [new_id()]
    return queue_out(await reach.gateway.clients.orchestrator.ListQueue(orchestrator_pb2.ListQueueRequest(team_ids=team_ids)))


@router.get("/v1/deployments/{deployment_id}/logs")
async def read_logs(
    deployment: ViewedDeployment,
    gateway: Platform,
    source: Annotated[list[LogSource] | None, Query(max_length=3)] = None,
    after: Annotated[int, Query(ge=0, lt=2**63, description="Only lines after this position.")] = 0,
    tail: Annotated[bool, Query(description="The newest lines instead of the oldest.")] = False,
    limit: Annotated[int, Query(ge=1, le=5000)] = 500,
) -> LogPageOut:
    """Lines that are stored, oldest first.

    Live: open a WebSocket at the same address, with the same token in the header. Its messages are JSON objects:
    `lines` with `entries`, `gap` with a `count`, `state` with the `deployment`, and `end`.
    """
    answer = await gateway.clients.log.ReadLogs(
        log_pb2.ReadLogsRequest(
            deployment_id=deployment.id,
            sources=[source_value(one) for one in source or []],
            after=after,
            tail=tail,
            limit=limit,
        )
    )
    return LogPageOut(items=[log_entry_out(entry) for entry in answer.entries], more=answer.more)
