"""New deployments of artifacts that exist: which one, with which configuration, under which id."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid5

from shipoff.common.errors import InvalidInput, NotFound, PreconditionFailed, Unavailable
from shipoff.common.ids import new_id
from shipoff.contracts.orchestrator.v1 import orchestrator_pb2
from shipoff.contracts.project.v1 import project_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.gateway.access import Access, is_id
from shipoff.gateway.authentication import Role
from shipoff.gateway.context import Gateway

_NAMESPACE = UUID("6f0f2c1e-6f1c-5b7e-9a53-0d0b6c0f5a11")
_PAGE = 50
_KNOWN_WITHIN_S = 3.0
_LOOK_EVERY_S = 0.1

Deployment = orchestrator_pb2.Deployment


def new_deployment_id(project_id: str, idempotency_key: str) -> str:
    """The id of a new deployment: the same for the same project and key (UUIDv5, RFC 9562), a new one without a key."""
    return str(uuid5(_NAMESPACE, f"{project_id}\n{idempotency_key}")) if idempotency_key else new_id()


async def existing(gateway: Gateway, deployment_id: str, project_id: str) -> Deployment | None:
    """The deployment that an earlier request with the same key made, if there was one."""
    try:
        found = await gateway.clients.orchestrator.GetDeployment(
            orchestrator_pb2.GetDeploymentRequest(deployment_id=deployment_id)
        )
    except NotFound:
        return None
    return found.deployment if found.deployment.project_id == project_id else None


async def taken_up(gateway: Gateway, deployment: Deployment) -> Deployment:
    """The deployment as orchestrator knows it; waits for one that was only just accepted. Raises Unavailable."""
    deadline_s = asyncio.get_running_loop().time() + _KNOWN_WITHIN_S
    while not deployment.number:
        found = await existing(gateway, deployment.id, deployment.project_id)
        if found is not None:
            return found
        if asyncio.get_running_loop().time() > deadline_s:
            raise Unavailable("the deployment has not been taken up yet")
        await asyncio.sleep(_LOOK_EVERY_S)
    return deployment


async def newest(
    gateway: Gateway, project_id: str, environment: str, *, state: types_pb2.DeploymentState.ValueType | None = None
) -> Deployment | None:
    """The newest deployment of an environment, in a state where one is given."""
    answer = await gateway.clients.orchestrator.ListDeployments(
        orchestrator_pb2.ListDeploymentsRequest(
            project_id=project_id, environment=environment, states=[state] if state else [], page_size=1
        )
    )
    return answer.deployments[0] if answer.deployments else None


async def snapshot(gateway: Gateway, project_id: str, environment: str) -> project_pb2.SnapshotConfigurationResponse:
    """The configuration of an environment as it is now."""
    return await gateway.clients.project.SnapshotConfiguration(
        project_pb2.SnapshotConfigurationRequest(project_id=project_id, environment=environment)
    )


def check_built(deployment: Deployment) -> None:
    """Raises PreconditionFailed where there is nothing to deploy again."""
    if not deployment.artifact.digest:
        raise PreconditionFailed(
            f"deployment #{deployment.number} has no artifact: it was not built, or not to the end",
            remedy=f"deploy anew: shipoff deploy -p {deployment.project_name}",
        )


async def rollback_target(reach: Access, project: project_pb2.Project, environment: str, to: str | int | None) -> Deployment:
    """What a rollback goes back to: the deployment that is named, else the one before.

    Raises NotFound, PreconditionFailed where there is nothing to go back to, InvalidInput for another environment's.
    """
    if to is None:
        return await _one_before(reach.gateway, project, environment)
    target = await _named(reach, project, to)
    if target.environment != environment:
        raise InvalidInput(
            f"deployment {to} is of {target.environment}",
            field="to",
            remedy=f"promote it instead: shipoff promote {to} --to {environment} -p {project.name}",
        )
    check_built(target)
    return target


def _see_deployments(project: project_pb2.Project) -> str:
    return f"see its deployments: shipoff list --deployments -p {project.name}"


async def _named(reach: Access, project: project_pb2.Project, to: str | int) -> Deployment:
    missing = NotFound(f"{project.name} has no deployment {to}", field="to", remedy=_see_deployments(project))
    if isinstance(to, str) and is_id(to):
        target = await reach.deployment(to, needs=Role.DEVELOPER)
        if target.project_id != project.id:
            raise missing
        return target
    if not str(to).isdecimal() or not 0 < int(to) < 2**63:
        raise missing
    answer = await reach.gateway.clients.orchestrator.ListDeployments(
        orchestrator_pb2.ListDeploymentsRequest(project_id=project.id, number=int(to), page_size=1)
    )
    if not answer.deployments:
        raise missing
    return answer.deployments[0]


async def _one_before(gateway: Gateway, project: project_pb2.Project, environment: str) -> Deployment:
    """The newest inactive deployment with an artifact that served before the present one."""
    live = await newest(gateway, project.id, environment, state=types_pb2.DEPLOYMENT_STATE_PRODUCTION)
    cursor = ""
    while True:
        answer = await gateway.clients.orchestrator.ListDeployments(
            orchestrator_pb2.ListDeploymentsRequest(
                project_id=project.id,
                environment=environment,
                states=[types_pb2.DEPLOYMENT_STATE_INACTIVE],
                page_size=_PAGE,
                page_token=cursor,
            )
        )
        for candidate in answer.deployments:
            if (
                candidate.artifact.digest
                and (live is None or candidate.number < live.number)
                and await _served(gateway, candidate)
            ):
                return candidate
        cursor = answer.next_page_token
        if not cursor:
            raise PreconditionFailed(
                f"{project.name} has no earlier deployment in {environment} to go back to", remedy=_see_deployments(project)
            )


async def _served(gateway: Gateway, deployment: Deployment) -> bool:
    """Whether it was in production once. A list may leave the transitions out."""
    if not deployment.transitions:
        request = orchestrator_pb2.GetDeploymentRequest(deployment_id=deployment.id)
        deployment = (await gateway.clients.orchestrator.GetDeployment(request)).deployment
    return any(transition.to_state == types_pb2.DEPLOYMENT_STATE_PRODUCTION for transition in deployment.transitions)
