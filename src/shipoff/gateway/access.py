"""Who may do what. Every route gets its team, project or deployment from here, and from nowhere else.

Another team's object and one that does not exist raise the same NotFound; too low a role raises PermissionDenied.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Path
from fastapi.security import HTTPBearer
from starlette.requests import HTTPConnection

from shipoff.common.errors import NotFound, PermissionDenied, Unauthenticated
from shipoff.common.telemetry import current, working_on
from shipoff.contracts.orchestrator.v1 import orchestrator_pb2
from shipoff.contracts.project.v1 import project_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.gateway.authentication import Principal, Role, token_of
from shipoff.gateway.context import Gateway, gateway_of
from shipoff.gateway.edge import address_of

bearer = HTTPBearer(auto_error=False, description="An API token: `shp_…`.")


async def authenticate(connection: HTTPConnection) -> Principal:
    """Who is calling. Raises Unauthenticated, InvalidInput (a token in the URL), Refused (429)."""
    gateway, address = gateway_of(connection), address_of(connection)
    try:
        token = token_of(connection)
    except Unauthenticated:
        gateway.anonymous.take(address)
        raise
    return await gateway.authenticator.principal(token, address=address)


def admit_anonymous(connection: HTTPConnection) -> None:
    """For the routes that need no token. Raises Refused (429)."""
    gateway_of(connection).anonymous.take(address_of(connection))


def admit_delivery(connection: HTTPConnection) -> None:
    """For webhooks. Raises Refused (429)."""
    gateway_of(connection).deliveries.admit(address_of(connection))


def principal_of(connection: HTTPConnection) -> Principal:
    """Who is calling, on a guarded route; a defect of ours (AttributeError) on any other."""
    principal: Principal = connection.state.principal
    return principal


def check_role(principal: Principal, team_id: str, *, needs: Role, missing: NotFound) -> None:
    """Raises `missing` for who is not in the team, PermissionDenied for too low a role."""
    role = principal.roles.get(team_id)
    if role is None:
        raise missing
    if role < needs:
        raise PermissionDenied(
            f"this needs the role {needs.name.lower()}; yours is {role.name.lower()}", remedy="ask an owner of the team"
        )


@dataclass(frozen=True)
class Access:
    """What one caller may reach."""

    gateway: Gateway
    principal: Principal

    def team(self, team_id: str, *, needs: Role) -> str:
        """The team's id. Raises NotFound, PermissionDenied."""
        check_role(self.principal, team_id, needs=needs, missing=NotFound(f"there is no team {team_id}"))
        return team_id

    def platform(self) -> str:
        """The id of the team that runs the platform, for its owners. Raises PermissionDenied for everybody else."""
        team_id = self.principal.platform_team_id
        if not team_id or self.principal.roles.get(team_id) is not Role.OWNER:
            raise PermissionDenied(
                "this is for owners of the team that the platform was set up with", remedy="ask whoever runs the platform"
            )
        return team_id

    async def project(self, id_or_name: str, *, needs: Role) -> project_pb2.Project:
        """Loads a project. Raises NotFound, PermissionDenied."""
        missing = NotFound(f"there is no project {id_or_name}", remedy="see your projects: shipoff list")
        try:
            answer = await self.gateway.clients.project.GetProject(project_pb2.GetProjectRequest(id_or_name=id_or_name))
        except NotFound as error:
            raise missing from error
        check_role(self.principal, answer.project.team_id, needs=needs, missing=missing)
        return answer.project

    async def deployment(self, deployment_id: str, *, needs: Role) -> orchestrator_pb2.Deployment:
        """Loads a deployment; one that was only just accepted is queued and has no number.

        Raises NotFound, PermissionDenied.
        """
        remedy = "see a project's deployments: shipoff list --deployments -p <project>"
        missing = NotFound(f"there is no deployment {deployment_id}", remedy=remedy)
        if not is_id(deployment_id):
            raise missing
        try:
            deployment = await load_deployment(self.gateway, deployment_id)
        except NotFound as error:
            raise missing from error
        check_role(self.principal, deployment.team_id, needs=needs, missing=missing)
        return deployment


def is_id(text: str) -> bool:
    """Whether this can be the id of anything; what cannot is not found, like any other unknown one."""
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


async def load_deployment(gateway: Gateway, deployment_id: str) -> orchestrator_pb2.Deployment:
    """As orchestrator knows it, or as project accepted it. Raises NotFound. Checks no role: only for ids that were checked."""
    request = orchestrator_pb2.GetDeploymentRequest(deployment_id=deployment_id)
    try:
        return (await gateway.clients.orchestrator.GetDeployment(request)).deployment
    except NotFound:
        accepted = await gateway.clients.project.GetDeploymentRequest(
            project_pb2.GetDeploymentRequestRequest(deployment_id=deployment_id)
        )
    project = await gateway.clients.project.GetProject(project_pb2.GetProjectRequest(id_or_name=accepted.project_id))
    return as_queued(accepted, project.project)


def hosts_of(project: project_pb2.Project, environment: str) -> list[str]:
    """The host names of an environment; none when the project has no such environment yet."""
    return next((list(e.hosts) for e in project.environments if e.name == environment), [])


def as_queued(accepted: project_pb2.GetDeploymentRequestResponse, project: project_pb2.Project) -> orchestrator_pb2.Deployment:
    """What orchestrator will make of a request that it has not seen yet."""
    git = accepted.source.git
    return orchestrator_pb2.Deployment(
        id=accepted.deployment_id,
        project_id=accepted.project_id,
        project_name=project.name,
        team_id=accepted.team_id,
        environment=accepted.environment,
        state=types_pb2.DEPLOYMENT_STATE_QUEUED,
        source=accepted.source,
        branch=git.ref,
        commit=git.commit,
        trigger=accepted.trigger,
        requested_by=accepted.requested_by,
        hosts=hosts_of(project, accepted.environment),
        created_at=accepted.requested_at,
        changed_at=accepted.requested_at,
    )


def access_of(connection: HTTPConnection) -> Access:
    """What the caller of a guarded route may reach."""
    return Access(gateway_of(connection), principal_of(connection))


# Asynchronous although they wait for nothing: FastAPI runs any other dependency in a thread, and in a busy process the way
# there and back takes longer than the rest of a request.
async def _caller(connection: HTTPConnection) -> Principal:
    return principal_of(connection)


async def _reach(connection: HTTPConnection) -> Access:
    return access_of(connection)


async def _platform(connection: HTTPConnection) -> Gateway:
    return gateway_of(connection)


Caller = Annotated[Principal, Depends(_caller)]
Reach = Annotated[Access, Depends(_reach)]
Platform = Annotated[Gateway, Depends(_platform)]


def _team(needs: Role) -> Callable[..., AsyncIterator[str]]:
    async def team(team_id: Annotated[str, Path(max_length=36)], reach: Reach) -> AsyncIterator[str]:
        with working_on(replace(current(), tenant_id=reach.team(team_id, needs=needs))):
            yield team_id

    return team


def _project(needs: Role) -> Callable[..., AsyncIterator[project_pb2.Project]]:
    async def project(
        project: Annotated[str, Path(max_length=300, description="Its id or its name.")], reach: Reach
    ) -> AsyncIterator[project_pb2.Project]:
        found = await reach.project(project, needs=needs)
        with working_on(replace(current(), tenant_id=found.team_id)):
            yield found

    return project


def _deployment(needs: Role) -> Callable[..., AsyncIterator[orchestrator_pb2.Deployment]]:
    async def deployment(
        deployment_id: Annotated[str, Path(max_length=36)], reach: Reach
    ) -> AsyncIterator[orchestrator_pb2.Deployment]:
        found = await reach.deployment(deployment_id, needs=needs)
        with working_on(replace(current(), tenant_id=found.team_id)):
            yield found

    return deployment


async def _platform_team(reach: Reach) -> str:
    return reach.platform()


# What a route writes in its signature: the object out of the path, checked.
ViewedTeam = Annotated[str, Depends(_team(Role.VIEWER))]
OwnedTeam = Annotated[str, Depends(_team(Role.OWNER))]
ViewedProject = Annotated[project_pb2.Project, Depends(_project(Role.VIEWER))]
ChangedProject = Annotated[project_pb2.Project, Depends(_project(Role.DEVELOPER))]
ViewedDeployment = Annotated[orchestrator_pb2.Deployment, Depends(_deployment(Role.VIEWER))]
ChangedDeployment = Annotated[orchestrator_pb2.Deployment, Depends(_deployment(Role.DEVELOPER))]
OperatingTeam = Annotated[str, Depends(_platform_team)]
