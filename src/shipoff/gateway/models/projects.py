"""Projects, their variables, sources and hooks."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field, StringConstraints

from shipoff.contracts.project.v1 import project_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.contracts.worker.v1 import worker_pb2
from shipoff.gateway.models.common import EnvironmentName, Incoming, Outgoing, moment
from shipoff.gateway.settings import GatewaySettings

_Command = Annotated[str, StringConstraints(max_length=4096)]
_Folder = Annotated[str, StringConstraints(max_length=512)]
_Word = Annotated[str, StringConstraints(max_length=32, pattern="^[a-z]*$")]


class BuildIn(Incoming):
    """What is absent stays as it is; an empty text leaves the choice to the detector."""

    root_directory: _Folder | None = None
    install_command: _Command | None = None
    build_command: _Command | None = None
    start_command: _Command | None = None
    output_directory: _Folder | None = None
    provider: _Word | None = Field(default=None, description="Only this one is considered: node, python, go, …")
    package_manager: _Word | None = Field(default=None, description="Decides between several lock files: npm, pnpm, uv, …")
    dockerfile: _Folder | None = Field(default=None, description="A Dockerfile's path; off: none is used.")
    timeout_s: int | None = Field(default=None, ge=0, lt=2**31, description="Of a build; zero is the platform's default.")
    queue_timeout_s: int | None = Field(default=None, ge=0, lt=2**31, description="Of a wait for a build slot; likewise.")


class RunIn(Incoming):
    """What is absent stays as it is; zero is the platform's default."""

    replicas: int | None = Field(default=None, ge=0, le=100)
    cpu_millis: int | None = Field(default=None, ge=0, le=64_000)
    memory_bytes: int | None = Field(default=None, ge=0, lt=2**63)
    health_path: str | None = Field(default=None, max_length=512, pattern=r"^(/[^\s]*)?$")
    ready_timeout_s: int | None = Field(default=None, ge=0, lt=2**31)
    bake_s: int | None = Field(
        default=None, ge=0, le=86_400, description="Seconds within which a release that breaks is replaced by the one before."
    )
    no_automatic_rollback: bool | None = Field(default=None, description="True: a release that breaks is not replaced.")


class RepositoryIn(Incoming):
    url: str = Field(min_length=1, max_length=2048)
    branch: str = Field(default="", max_length=255, description="Empty: the repository's default branch.")


class ProjectIn(Incoming):
    name: str = Field(min_length=1, max_length=300)
    team_id: str | None = Field(default=None, max_length=36, description="Absent: the only team the caller is in.")
    build: BuildIn | None = None
    run: RunIn | None = None
    repository: RepositoryIn | None = None


class ProjectPatch(Incoming):
    build: BuildIn | None = None
    run: RunIn | None = None
    repository: RepositoryIn | None = None


class BuildOut(Outgoing):
    root_directory: str
    install_command: str
    build_command: str
    start_command: str
    output_directory: str
    provider: str
    package_manager: str
    dockerfile: str
    timeout_s: int
    queue_timeout_s: int


class RunOut(Outgoing):
    replicas: int
    cpu_millis: int
    memory_bytes: int
    health_path: str
    ready_timeout_s: int
    bake_s: int
    no_automatic_rollback: bool


class RepositoryOut(Outgoing):
    url: str
    branch: str


class EnvironmentOut(Outgoing):
    name: str
    hosts: list[str]
    urls: list[str]


class ProjectOut(Outgoing):
    id: str
    name: str
    team_id: str
    build: BuildOut
    run: RunOut
    repository: RepositoryOut | None
    environments: list[EnvironmentOut]
    created_at: datetime


class VariablesIn(Incoming):
    environment: EnvironmentName = "production"
    variables: dict[str, str] = Field(min_length=1, max_length=500)


class VariableOut(Outgoing):
    name: str
    value: str | None = Field(description="Null unless revealed.")
    version: int
    changed_at: datetime
    changed_by: str


class VersionOut(Outgoing):
    configuration_version: int


class SourceOut(Outgoing):
    digest: str
    size_bytes: int


class HookIn(Incoming):
    url: str = Field(min_length=1, max_length=2048)


class HookOut(Outgoing):
    id: str
    url: str
    created_at: datetime
    last_result: str


class NewHookOut(HookOut):
    secret: str = Field(description="Signs the deliveries; shown once.")


def merged_build(current: types_pb2.BuildSettings, change: BuildIn | None) -> types_pb2.BuildSettings | None:
    """The settings with the change in them; None where nothing changes."""
    if change is None:
        return None
    out = types_pb2.BuildSettings()
    out.CopyFrom(current)
    for name, value in change.model_dump(exclude_none=True).items():
        setattr(out, name, value)
    return out


def merged_run(current: types_pb2.RunSettings, change: RunIn | None) -> types_pb2.RunSettings | None:
    """The settings with the change in them; None where nothing changes."""
    if change is None:
        return None
    out = types_pb2.RunSettings()
    out.CopyFrom(current)
    for name, value in change.model_dump(exclude_none=True).items():
        setattr(out, name, value)
    return out


def repository_of(repository: RepositoryIn | None) -> project_pb2.Repository | None:
    return project_pb2.Repository(url=repository.url, branch=repository.branch) if repository else None


def project_out(project: project_pb2.Project, settings: GatewaySettings) -> ProjectOut:
    repository = RepositoryOut(url=project.repository.url, branch=project.repository.branch)
    return ProjectOut(
        id=project.id,
        name=project.name,
        team_id=project.team_id,
        build=BuildOut(**{name: getattr(project.build, name) for name in BuildOut.model_fields}),
        run=RunOut(**{name: getattr(project.run, name) for name in RunOut.model_fields}),
        repository=repository if project.HasField("repository") else None,
        environments=[
            EnvironmentOut(name=e.name, hosts=list(e.hosts), urls=[settings.url(host) for host in e.hosts])
            for e in project.environments
        ],
        created_at=moment(project.created_at),
    )


def variable_out(variable: project_pb2.Variable, *, revealed: bool) -> VariableOut:
    return VariableOut(
        name=variable.name,
        value=variable.value if revealed else None,
        version=variable.version,
        changed_at=moment(variable.changed_at),
        changed_by=variable.changed_by,
    )


def hook_out(hook: worker_pb2.Hook) -> HookOut:
    return HookOut(id=hook.id, url=hook.url, created_at=moment(hook.created_at), last_result=hook.last_result)
