"""Projects, their variables and hooks."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query
from pydantic import StringConstraints

from shipoff.common.errors import InvalidInput, NotFound
from shipoff.contracts.project.v1 import project_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.contracts.worker.v1 import worker_pb2
from shipoff.gateway import audit
from shipoff.gateway.access import ChangedProject, Platform, Reach, ViewedProject, is_id
from shipoff.gateway.authentication import Principal, Role
from shipoff.gateway.models.common import Cursor, EnvironmentQuery, Limit, Listing, Page
from shipoff.gateway.models.projects import (
    HookIn,
    HookOut,
    NewHookOut,
    ProjectIn,
    ProjectOut,
    ProjectPatch,
    VariableOut,
    VariablesIn,
    VersionOut,
    hook_out,
    merged_build,
    merged_run,
    project_out,
    repository_of,
    variable_out,
)
from shipoff.gateway.routing import guarded

router = guarded("projects")

_VariableName = Annotated[str, StringConstraints(min_length=1, max_length=256)]


@router.get("/v1/projects")
async def list_projects(reach: Reach, limit: Limit = 50, cursor: Cursor = "") -> Page[ProjectOut]:
    """The projects of the caller's teams."""
    team_ids = list(reach.principal.roles)
    # No team is not "every team".
    if not team_ids:
        return Page(items=[])
    answer = await reach.gateway.clients.project.ListProjects(
        project_pb2.ListProjectsRequest(team_ids=team_ids, page_size=limit, page_token=cursor)
    )
    items = [project_out(project, reach.gateway.settings) for project in answer.projects]
    return Page(items=items, next_cursor=answer.next_page_token or None)


def _only_team(principal: Principal) -> str:
    """Raises InvalidInput where the caller has to choose."""
    candidates = [team_id for team_id, role in principal.roles.items() if role >= Role.DEVELOPER] or list(principal.roles)
    if len(candidates) != 1:
        raise InvalidInput(
            f"you are in {len(candidates)} teams: say which", field="team_id", remedy="see your teams: shipoff whoami"
        )
    return candidates[0]


@router.post("/v1/projects", status_code=201)
async def create_project(body: ProjectIn, reach: Reach) -> ProjectOut:
    """Makes a project; its name is its host name, and so unique on the platform."""
    team_id = reach.team(body.team_id or _only_team(reach.principal), needs=Role.DEVELOPER)
    answer = await reach.gateway.clients.project.CreateProject(
        project_pb2.CreateProjectRequest(
            team_id=team_id,
            name=body.name,
            build=merged_build(types_pb2.BuildSettings(), body.build),
            run=merged_run(types_pb2.RunSettings(), body.run),
            repository=repository_of(body.repository),
        )
    )
    await audit.record(reach, "project.create", team_id=team_id, object_id=answer.project.id, detail=answer.project.name)
    return project_out(answer.project, reach.gateway.settings)


@router.get("/v1/projects/{project}")
async def get_project(project: ViewedProject, gateway: Platform) -> ProjectOut:
    """One project."""
    return project_out(project, gateway.settings)


@router.patch("/v1/projects/{project}")
async def update_project(project: ChangedProject, body: ProjectPatch, reach: Reach) -> ProjectOut:
    """Changes the settings that are given; the next deployment is made with them."""
    answer = await reach.gateway.clients.project.UpdateProject(
        project_pb2.UpdateProjectRequest(
            project_id=project.id,
            build=merged_build(project.build, body.build),
            run=merged_run(project.run, body.run),
            repository=repository_of(body.repository),
        )
    )
    changed = ", ".join(sorted(body.model_fields_set))
    await audit.record(reach, "project.update", team_id=project.team_id, object_id=project.id, detail=changed)
    return project_out(answer.project, reach.gateway.settings)


@router.delete("/v1/projects/{project}", status_code=204)
async def delete_project(
    project: ChangedProject,
    reach: Reach,
    only_unused: Annotated[
        bool, Query(description="409 unless it was never deployed nor set up; then it takes no owner to delete it.")
    ] = False,
) -> None:
    """Takes everything of the project down."""
    if not only_unused:
        reach.team(project.team_id, needs=Role.OWNER)
    await reach.gateway.clients.project.DeleteProject(
        project_pb2.DeleteProjectRequest(project_id=project.id, deleted_by=reach.principal.user_id, only_unused=only_unused)
    )
    await audit.record(reach, "project.delete", team_id=project.team_id, object_id=project.id, detail=project.name)


@router.get("/v1/projects/{project}/variables")
async def list_variables(
    project: ViewedProject, reach: Reach, environment: EnvironmentQuery = "production", reveal: bool = False
) -> Listing[VariableOut]:
    """The environment's variables; their values only with `reveal`, for developers, and written into the audit log."""
    if reveal:
        reach.team(project.team_id, needs=Role.DEVELOPER)
        await audit.record(reach, "variables.reveal", team_id=project.team_id, object_id=project.id, detail=environment)
    answer = await reach.gateway.clients.project.ListVariables(
        project_pb2.ListVariablesRequest(project_id=project.id, environment=environment, reveal=reveal)
    )
    return Listing(items=[variable_out(variable, revealed=reveal) for variable in answer.variables])


@router.put("/v1/projects/{project}/variables")
async def set_variables(project: ChangedProject, body: VariablesIn, reach: Reach) -> VersionOut:
    """Sets these variables and leaves the others."""
    answer = await reach.gateway.clients.project.SetVariables(
        project_pb2.SetVariablesRequest(
            project_id=project.id,
            environment=body.environment,
            variables=body.variables,
            changed_by=reach.principal.user_id,
        )
    )
    names = f"{body.environment}: {', '.join(sorted(body.variables))}"
    await audit.record(reach, "variables.set", team_id=project.team_id, object_id=project.id, detail=names)
    return VersionOut(configuration_version=answer.configuration_version)


@router.delete("/v1/projects/{project}/variables")
async def unset_variables(
    project: ChangedProject,
    name: Annotated[list[_VariableName], Query(min_length=1, max_length=500, description="One or more, each once.")],
    reach: Reach,
    environment: EnvironmentQuery = "production",
) -> VersionOut:
    """Removes variables: all of them, or with 404 none where one is not set."""
    answer = await reach.gateway.clients.project.UnsetVariables(
        project_pb2.UnsetVariablesRequest(
            project_id=project.id, environment=environment, names=name, changed_by=reach.principal.user_id
        )
    )
    names = f"{environment}: {', '.join(sorted(name))}"
    await audit.record(reach, "variables.unset", team_id=project.team_id, object_id=project.id, detail=names)
    return VersionOut(configuration_version=answer.configuration_version)


@router.delete("/v1/projects/{project}/variables/{name}")
async def unset_variable(
    project: ChangedProject,
    name: Annotated[_VariableName, Path()],
    reach: Reach,
    environment: EnvironmentQuery = "production",
) -> VersionOut:
    """Removes a variable. 404 where it is not set."""
    return await unset_variables(project, [name], reach, environment)


@router.get("/v1/projects/{project}/hooks")
async def list_hooks(project: ViewedProject, gateway: Platform) -> Listing[HookOut]:
    """The addresses that are told of the project's transitions."""
    answer = await gateway.clients.worker.ListHooks(worker_pb2.ListHooksRequest(project_id=project.id))
    return Listing(items=[hook_out(hook) for hook in answer.hooks])


@router.post("/v1/projects/{project}/hooks", status_code=201)
async def create_hook(project: ChangedProject, body: HookIn, reach: Reach) -> NewHookOut:
    """Adds an address; the secret that signs its deliveries is shown this once."""
    answer = await reach.gateway.clients.worker.CreateHook(
        worker_pb2.CreateHookRequest(project_id=project.id, team_id=project.team_id, url=body.url)
    )
    await audit.record(reach, "hook.create", team_id=project.team_id, object_id=answer.hook.id, detail=project.name)
    return NewHookOut(**hook_out(answer.hook).model_dump(), secret=answer.secret)


@router.delete("/v1/projects/{project}/hooks/{hook_id}", status_code=204)
async def delete_hook(project: ChangedProject, hook_id: Annotated[str, Path(max_length=36)], reach: Reach) -> None:
    """Removes an address."""
    if not is_id(hook_id):
        raise NotFound(f"there is no hook {hook_id}")
    await reach.gateway.clients.worker.DeleteHook(worker_pb2.DeleteHookRequest(project_id=project.id, hook_id=hook_id))
    await audit.record(reach, "hook.delete", team_id=project.team_id, object_id=hook_id, detail=project.name)
