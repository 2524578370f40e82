"""Deployments: ask for one, look, cancel, go back, put it elsewhere."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Query

from shipoff.contracts.orchestrator.v1 import orchestrator_pb2
from shipoff.contracts.project.v1 import project_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.gateway import audit
from shipoff.gateway.access import (
    Access,
    ChangedDeployment,
    ChangedProject,
    Platform,
    Reach,
    ViewedDeployment,
    ViewedProject,
    load_deployment,
)
from shipoff.gateway.deploying import check_built, existing, new_deployment_id, rollback_target, snapshot, taken_up
from shipoff.gateway.models.common import Cursor, EnvironmentName, Limit, Page
from shipoff.gateway.models.deployments import (
    DeploymentIn,
    DeploymentOut,
    PromoteIn,
    RedeployIn,
    RollbackIn,
    State,
    source_of,
    state_of,
)
from shipoff.gateway.models.timeline import TimelineOut, timeline_out
from shipoff.gateway.routing import guarded

router = guarded("deployments")

_IdempotencyKey = Annotated[
    str, Header(alias="Idempotency-Key", max_length=255, description="The same key again gives the same deployment.")
]
_AS_IT_WAS = RedeployIn()
_ONE_BEFORE = RollbackIn()


@router.post("/v1/projects/{project}/deployments", status_code=202)
async def create_deployment(
    project: ChangedProject, body: DeploymentIn, reach: Reach, idempotency_key: _IdempotencyKey = ""
) -> DeploymentOut:
    """Accepts a deployment of an uploaded archive or of a repository."""
    answer = await reach.gateway.clients.project.RequestDeployment(
        project_pb2.RequestDeploymentRequest(
            project_id=project.id,
            environment=body.environment,
            source=source_of(body.source),
            requested_by=reach.principal.user_id,
            idempotency_key=idempotency_key,
            no_cache=body.no_cache,
        )
    )
    await audit.record(
        reach, "deployment.create", team_id=project.team_id, object_id=answer.deployment_id, detail=body.environment
    )
    return await reach.gateway.people.shown(await load_deployment(reach.gateway, answer.deployment_id))


@router.get("/v1/projects/{project}/deployments")
async def list_deployments(
    project: ViewedProject,
    gateway: Platform,
    environment: EnvironmentName | None = None,
    state: Annotated[list[State] | None, Query(max_length=6)] = None,
    number: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
    limit: Limit = 20,
    cursor: Cursor = "",
) -> Page[DeploymentOut]:
    """The project's deployments, newest first."""
    answer = await gateway.clients.orchestrator.ListDeployments(
        orchestrator_pb2.ListDeploymentsRequest(
            project_id=project.id,
            environment=environment or "",
            states=[state_of(one) for one in state or []],
            number=number or 0,
            page_size=limit,
            page_token=cursor,
        )
    )
    return Page(items=await gateway.people.all_shown(answer.deployments), next_cursor=answer.next_page_token or None)


@router.get("/v1/deployments/{deployment_id}")
async def get_deployment(deployment: ViewedDeployment, gateway: Platform) -> DeploymentOut:
    """One deployment."""
    return await gateway.people.shown(deployment)


@router.get("/v1/deployments/{deployment_id}/timeline")
async def get_timeline(deployment: ViewedDeployment, gateway: Platform) -> TimelineOut:
    """Each state it was in: who brought it there, why, when, and for how long."""
    return timeline_out(await gateway.people.named(deployment))


@router.post("/v1/deployments/{deployment_id}/cancel")
async def cancel_deployment(deployment: ChangedDeployment, reach: Reach) -> DeploymentOut:
    """Stops a deployment that does not rest yet."""
    known = await taken_up(reach.gateway, deployment)
    answer = await reach.gateway.clients.orchestrator.CancelDeployment(
        orchestrator_pb2.CancelDeploymentRequest(deployment_id=known.id, cancelled_by=reach.principal.user_id)
    )
    await audit.record(reach, "deployment.cancel", team_id=known.team_id, object_id=known.id, detail=known.environment)
    return await reach.gateway.people.shown(answer.deployment)


async def _create(reach: Access, request: orchestrator_pb2.CreateDeploymentRequest, action: str) -> DeploymentOut:
    answer = await reach.gateway.clients.orchestrator.CreateDeployment(request)
    made = answer.deployment
    detail = f"{made.environment}, from {request.from_deployment_id}"
    await audit.record(reach, action, team_id=made.team_id, object_id=made.id, detail=detail)
    return await reach.gateway.people.shown(made)


@router.post("/v1/deployments/{deployment_id}/redeploy", status_code=202)
async def redeploy(
    deployment: ChangedDeployment, reach: Reach, body: RedeployIn = _AS_IT_WAS, idempotency_key: _IdempotencyKey = ""
) -> DeploymentOut:
    """Deploys the same artifact again, with the configuration it had or with today's."""
    check_built(deployment)
    request = orchestrator_pb2.CreateDeploymentRequest(
        from_deployment_id=deployment.id,
        trigger=types_pb2.TRIGGER_REDEPLOY,
        requested_by=reach.principal.user_id,
        deployment_id=new_deployment_id(deployment.project_id, idempotency_key),
    )
    if body.current_configuration:
        now = await snapshot(reach.gateway, deployment.project_id, deployment.environment)
        request.configuration.CopyFrom(now.configuration)
        request.hosts.extend(now.hosts)
    return await _create(reach, request, "deployment.redeploy")


@router.post("/v1/deployments/{deployment_id}/promote", status_code=202)
async def promote(
    deployment: ChangedDeployment, body: PromoteIn, reach: Reach, idempotency_key: _IdempotencyKey = ""
) -> DeploymentOut:
    """Deploys the artifact in another environment, with that environment's configuration and host names."""
    check_built(deployment)
    target = await snapshot(reach.gateway, deployment.project_id, body.environment)
    request = orchestrator_pb2.CreateDeploymentRequest(
        from_deployment_id=deployment.id,
        trigger=types_pb2.TRIGGER_PROMOTE,
        environment=body.environment,
        requested_by=reach.principal.user_id,
        deployment_id=new_deployment_id(deployment.project_id, idempotency_key),
        configuration=target.configuration,
        hosts=target.hosts,
    )
    return await _create(reach, request, "deployment.promote")


@router.post("/v1/projects/{project}/rollback", status_code=202)
async def rollback(
    project: ChangedProject, reach: Reach, body: RollbackIn = _ONE_BEFORE, idempotency_key: _IdempotencyKey = ""
) -> DeploymentOut:
    """Goes back to an earlier artifact, with the configuration it had."""
    deployment_id = new_deployment_id(project.id, idempotency_key)
    if idempotency_key:
        # The one before is another one by now: the same key still means the first answer.
        made = await existing(reach.gateway, deployment_id, project.id)
        if made is not None:
            return await reach.gateway.people.shown(made)
    target = await rollback_target(reach, project, body.environment, body.to)
    request = orchestrator_pb2.CreateDeploymentRequest(
        from_deployment_id=target.id,
        trigger=types_pb2.TRIGGER_ROLLBACK,
        requested_by=reach.principal.user_id,
        deployment_id=deployment_id,
    )
    return await _create(reach, request, "deployment.rollback")
