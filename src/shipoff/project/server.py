"""ProjectService: gRPC ↔ domain."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import grpc.aio

from shipoff.common.errors import InvalidInput
from shipoff.contracts.project.v1 import project_pb2 as pb
from shipoff.contracts.project.v1 import project_pb2_grpc
from shipoff.contracts.types.v1 import types_pb2
from shipoff.project import messages
from shipoff.project.accepting import Deployments, Uploads, Wish
from shipoff.project.domain import Project, Repository, hosts
from shipoff.project.handlers import Changes, Projects, Shown
from shipoff.project.receiving import Deliveries

_Context = grpc.aio.ServicerContext[Any, Any]


class ProjectServer(project_pb2_grpc.ProjectServiceServicer):
    """Translates; the use cases decide."""

    def __init__(self, projects: Projects, uploads: Uploads, deployments: Deployments, deliveries: Deliveries) -> None:
        self._projects = projects
        self._uploads = uploads
        self._deployments = deployments
        self._deliveries = deliveries

    def _message(self, project: Project) -> pb.Project:
        return _message(project, self._projects.rules.base_domain)

    async def CreateProject(self, request: pb.CreateProjectRequest, context: _Context) -> pb.CreateProjectResponse:
        project = await self._projects.create(request.team_id, request.name, _changes(request))
        return pb.CreateProjectResponse(project=self._message(project))

    async def GetProject(self, request: pb.GetProjectRequest, context: _Context) -> pb.GetProjectResponse:
        return pb.GetProjectResponse(project=self._message(await self._projects.get(request.id_or_name)))

    async def ListProjects(self, request: pb.ListProjectsRequest, context: _Context) -> pb.ListProjectsResponse:
        page, next_token = await self._projects.list(
            request.team_ids, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListProjectsResponse(projects=[self._message(project) for project in page], next_page_token=next_token)

    async def UpdateProject(self, request: pb.UpdateProjectRequest, context: _Context) -> pb.UpdateProjectResponse:
        project = await self._projects.update(request.project_id, _changes(request))
        return pb.UpdateProjectResponse(project=self._message(project))

    async def DeleteProject(self, request: pb.DeleteProjectRequest, context: _Context) -> pb.DeleteProjectResponse:
        await self._projects.delete(request.project_id, deleted_by=request.deleted_by, only_unused=request.only_unused)
        return pb.DeleteProjectResponse()

    async def SetVariables(self, request: pb.SetVariablesRequest, context: _Context) -> pb.SetVariablesResponse:
        version = await self._projects.set_variables(
            request.project_id, request.environment, request.variables, changed_by=request.changed_by
        )
        return pb.SetVariablesResponse(configuration_version=version)

    async def UnsetVariables(self, request: pb.UnsetVariablesRequest, context: _Context) -> pb.UnsetVariablesResponse:
        version = await self._projects.unset_variables(
            request.project_id, request.environment, request.names, changed_by=request.changed_by
        )
        return pb.UnsetVariablesResponse(configuration_version=version)

    async def ListVariables(self, request: pb.ListVariablesRequest, context: _Context) -> pb.ListVariablesResponse:
        shown = await self._projects.list_variables(request.project_id, request.environment, reveal=request.reveal)
        return pb.ListVariablesResponse(variables=[_variable(item) for item in shown])

    async def UploadSource(
        self, request_iterator: AsyncIterator[pb.UploadSourceRequest], context: _Context
    ) -> pb.UploadSourceResponse:
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("part") != "project_id":
            raise InvalidInput("the first message has to name the project", field="project_id")
        archive = await self._uploads.upload(first.project_id, _chunks(request_iterator))
        return pb.UploadSourceResponse(source=types_pb2.ArchiveSource(**asdict(archive)))

    async def RequestDeployment(self, request: pb.RequestDeploymentRequest, context: _Context) -> pb.RequestDeploymentResponse:
        wish = Wish(
            request.project_id,
            request.environment,
            messages.source(request.source),
            requested_by=request.requested_by,
            idempotency_key=request.idempotency_key,
            no_cache=request.no_cache,
        )
        return pb.RequestDeploymentResponse(deployment_id=await self._deployments.request(wish))

    async def GetDeploymentRequest(
        self, request: pb.GetDeploymentRequestRequest, context: _Context
    ) -> pb.GetDeploymentRequestResponse:
        found = await self._deployments.find(request.deployment_id)
        return pb.GetDeploymentRequestResponse(
            deployment_id=found.deployment_id,
            project_id=found.project_id,
            team_id=found.team_id,
            environment=found.environment,
            source=messages.source_message(found.source),
            trigger=types_pb2.Trigger.ValueType(found.trigger),
            requested_by=found.requested_by,
            requested_at=messages.timestamp(found.requested_at),
        )

    async def SnapshotConfiguration(
        self, request: pb.SnapshotConfigurationRequest, context: _Context
    ) -> pb.SnapshotConfigurationResponse:
        configuration, names = await self._projects.configuration(request.project_id, request.environment)
        return pb.SnapshotConfigurationResponse(configuration=messages.configuration_message(configuration), hosts=names)

    async def ReceiveWebhook(self, request: pb.ReceiveWebhookRequest, context: _Context) -> pb.ReceiveWebhookResponse:
        repeated, outcome = await self._deliveries.receive(
            request.delivery_id, request.event, signature=request.signature, body=request.body
        )
        return pb.ReceiveWebhookResponse(
            repeated=repeated, deployment_ids=outcome.deployment_ids, ignored_because=outcome.ignored_because
        )


async def _chunks(requests: AsyncIterator[pb.UploadSourceRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("part") != "chunk":
            raise InvalidInput("only the first message names the project", field="project_id")
        yield request.chunk


def _changes(request: pb.CreateProjectRequest | pb.UpdateProjectRequest) -> Changes:
    return Changes(
        build=messages.build_settings(request.build) if request.HasField("build") else None,
        run=messages.run_settings(request.run) if request.HasField("run") else None,
        repository=Repository(request.repository.url, request.repository.branch) if request.HasField("repository") else None,
    )


def _message(project: Project, base_domain: str) -> pb.Project:
    repository = project.repository
    return pb.Project(
        id=project.id,
        team_id=project.team_id,
        name=project.name,
        build=types_pb2.BuildSettings(**asdict(project.build)),
        run=types_pb2.RunSettings(**asdict(project.run)),
        repository=pb.Repository(url=repository.url, branch=repository.branch) if repository else None,
        environments=[pb.Environment(name=name, hosts=hosts(project.name, name, base_domain)) for name in project.environments],
        created_at=messages.timestamp(project.created_at),
    )


def _variable(shown: Shown) -> pb.Variable:
    variable = shown.variable
    return pb.Variable(
        name=variable.name,
        value=shown.value,
        version=variable.version,
        changed_at=messages.timestamp(variable.changed_at),
        changed_by=variable.changed_by,
    )
