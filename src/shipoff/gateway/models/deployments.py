"""Deployments, their plans and transitions, and the queue."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from shipoff.contracts.orchestrator.v1 import orchestrator_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.gateway.models.common import EnvironmentName, Incoming, Outgoing, moment, state_name
from shipoff.gateway.models.projects import BuildOut, RunOut
from shipoff.gateway.settings import GatewaySettings

State = Literal["queued", "building", "provisioning", "production", "failed", "inactive"]
_Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


class ArchiveIn(Incoming):
    digest: _Digest = Field(description="Of an archive that was uploaded to the project.")


class GitIn(Incoming):
    url: str = Field(min_length=1, max_length=2048)
    ref: str = Field(default="", max_length=255, description="A branch, a tag or a full commit id; empty: the default branch.")


class SourceIn(Incoming):
    """Exactly one of the two."""

    archive: ArchiveIn | None = None
    git: GitIn | None = None

    @model_validator(mode="after")
    def _one(self) -> SourceIn:
        if (self.archive is None) == (self.git is None):
            raise ValueError("give either archive or git")
        return self


class DeploymentIn(Incoming):
    environment: EnvironmentName = "production"
    source: SourceIn
    no_cache: bool = Field(default=False, description="Build it even where the same was built before, and without its layers.")


class RedeployIn(Incoming):
    current_configuration: bool = Field(default=False, description="Today's settings and variables instead of those it had.")


class PromoteIn(Incoming):
    environment: EnvironmentName


class RollbackIn(Incoming):
    environment: EnvironmentName = "production"
    to: Annotated[str, StringConstraints(min_length=1, max_length=36)] | Annotated[int, Field(ge=1, lt=2**63)] | None = Field(
        default=None, description="The id or the number of a deployment; absent: the one before."
    )


class ScaleIn(Incoming):
    environment: EnvironmentName = "production"
    replicas: int = Field(ge=1, le=100)


class ArchiveOut(Outgoing):
    digest: str
    size_bytes: int


class GitOut(Outgoing):
    url: str
    ref: str
    commit: str


class ArchiveSourceOut(Outgoing):
    archive: ArchiveOut


class GitSourceOut(Outgoing):
    git: GitOut


class StepOut(Outgoing):
    name: str
    commands: list[list[str]]


class ProcessOut(Outgoing):
    name: str
    command: list[str]


class RuntimeOut(Outgoing):
    name: str
    version: str
    source: str


class EvidenceOut(Outgoing):
    file: str
    key: str
    rule: str


class PlanOut(Outgoing):
    """How it is built and run, and why."""

    provider: str
    framework: str
    mode: str
    app_root: str
    package_manager: str
    runtimes: list[RuntimeOut]
    steps: list[StepOut]
    processes: list[ProcessOut]
    output_dir: str
    health_path: str
    evidence: list[EvidenceOut]
    confidence: float
    warnings: list[str]


class TransitionOut(Outgoing):
    from_state: State | None = Field(serialization_alias="from")
    to_state: State = Field(serialization_alias="to")
    reason: str
    actor: str = Field(description="An e-mail address, github:<login>, or system; an id for who is no member any more.")
    time: datetime


class SnapshotOut(Outgoing):
    """What a deployment was made from, kept with it; never a variable's value. Zero and empty: the platform's default."""

    configuration_version: int
    variables: dict[str, int] = Field(description="Name → version.")
    build: BuildOut
    run: RunOut
    artifact_digest: str | None
    artifact_size_bytes: int | None


class DeploymentOut(Outgoing):
    id: str
    number: int | None = Field(description="Counts within the project; null for the moment between acceptance and queue.")
    project_id: str
    project_name: str
    environment: str
    state: State
    reason: str
    source: ArchiveSourceOut | GitSourceOut
    branch: str
    commit: str
    commit_message: str
    trigger: str
    requested_by: str = Field(description="As `actor`.")
    urls: list[str]
    plan: PlanOut | None
    artifact_digest: str | None
    created_at: datetime
    changed_at: datetime
    transitions: list[TransitionOut]
    variable_versions: dict[str, int]
    origin_deployment_id: str | None
    snapshot: SnapshotOut


class ResourcesOut(Outgoing):
    cpu_millis: int
    memory_bytes: int
    cluster_cpu_millis: int = Field(default=0, description="Of the cluster that apps run on, apart from what builds.")
    cluster_memory_bytes: int = 0


class QueueEntryOut(Outgoing):
    deployment_id: str
    project_id: str
    project_name: str
    environment: str
    number: int
    state: State
    position: int = Field(description="From 1 for what waits; 0 for what builds.")
    needs: ResourcesOut
    waits_for: str = Field(description="In words; another team's deployments are not named.")
    estimated_start: datetime | None = Field(description="From what builds took so far; null where nobody can say.")
    queued_at: datetime


class QueueOut(Outgoing):
    entries: list[QueueEntryOut]
    budget: ResourcesOut
    reserved: ResourcesOut


def source_of(source: SourceIn) -> types_pb2.Source:
    if source.archive is not None:
        return types_pb2.Source(archive=types_pb2.ArchiveSource(digest=source.archive.digest))
    assert source.git is not None
    return types_pb2.Source(git=types_pb2.GitSource(url=source.git.url, ref=source.git.ref))


def state_of(state: State) -> types_pb2.DeploymentState.ValueType:
    return types_pb2.DeploymentState.Value(f"DEPLOYMENT_STATE_{state.upper()}")


def _state(state: types_pb2.DeploymentState.ValueType) -> State:
    return state_name(state)  # type: ignore[return-value]  # the contract's names are these


def _source(source: types_pb2.Source) -> ArchiveSourceOut | GitSourceOut:
    if source.HasField("archive"):
        return ArchiveSourceOut(archive=ArchiveOut(digest=source.archive.digest, size_bytes=source.archive.size_bytes))
    return GitSourceOut(git=GitOut(url=source.git.url, ref=source.git.ref, commit=source.git.commit))


def plan_out(plan: types_pb2.Plan) -> PlanOut:
    """Without the steps' environments: a plan may carry values there that are nobody's to read."""
    return PlanOut(
        provider=plan.provider,
        framework=plan.framework,
        mode=types_pb2.PlanMode.Name(plan.mode).removeprefix("PLAN_MODE_").lower(),
        app_root=plan.app_root,
        package_manager=plan.package_manager.name,
        runtimes=[RuntimeOut(name=r.name, version=r.resolved or r.requested, source=r.source) for r in plan.runtimes],
        steps=[StepOut(name=step.name, commands=[list(command.argv) for command in step.commands]) for step in plan.steps],
        processes=[ProcessOut(name=process.name, command=list(process.command.argv)) for process in plan.processes],
        output_dir=plan.output_dir,
        health_path=plan.health_path,
        evidence=[EvidenceOut(file=e.file, key=e.key, rule=e.rule) for e in plan.evidence],
        confidence=plan.confidence,
        warnings=list(plan.warnings),
    )


def _transition(transition: orchestrator_pb2.Transition) -> TransitionOut:
    return TransitionOut(
        from_state=_state(transition.from_state) if transition.from_state else None,
        to_state=_state(transition.to_state),
        reason=transition.reason,
        actor=transition.actor,
        time=moment(transition.time),
    )


def _snapshot(deployment: orchestrator_pb2.Deployment) -> SnapshotOut:
    return SnapshotOut(
        configuration_version=deployment.configuration_version,
        variables=dict(deployment.variable_versions),
        build=BuildOut(**{name: getattr(deployment.build, name) for name in BuildOut.model_fields}),
        run=RunOut(**{name: getattr(deployment.run, name) for name in RunOut.model_fields}),
        artifact_digest=deployment.artifact.digest or None,
        artifact_size_bytes=deployment.artifact.size_bytes if deployment.artifact.digest else None,
    )


def deployment_out(deployment: orchestrator_pb2.Deployment, settings: GatewaySettings) -> DeploymentOut:
    return DeploymentOut(
        id=deployment.id,
        number=deployment.number or None,
        project_id=deployment.project_id,
        project_name=deployment.project_name,
        environment=deployment.environment,
        state=_state(deployment.state),
        reason=deployment.reason,
        source=_source(deployment.source),
        branch=deployment.branch,
        commit=deployment.commit,
        commit_message=deployment.commit_message,
        trigger=types_pb2.Trigger.Name(deployment.trigger).removeprefix("TRIGGER_").lower(),
        requested_by=deployment.requested_by,
        urls=[settings.url(host) for host in deployment.hosts],
        plan=plan_out(deployment.plan) if deployment.HasField("plan") else None,
        artifact_digest=deployment.artifact.digest or None,
        created_at=moment(deployment.created_at),
        changed_at=moment(deployment.changed_at),
        transitions=[_transition(transition) for transition in deployment.transitions],
        variable_versions=dict(deployment.variable_versions),
        origin_deployment_id=deployment.origin_deployment_id or None,
        snapshot=_snapshot(deployment),
    )


def _resources(resources: types_pb2.Resources) -> ResourcesOut:
    return ResourcesOut(
        cpu_millis=resources.cpu_millis,
        memory_bytes=resources.memory_bytes,
        cluster_cpu_millis=resources.cluster_cpu_millis,
        cluster_memory_bytes=resources.cluster_memory_bytes,
    )


def queue_out(queue: orchestrator_pb2.ListQueueResponse) -> QueueOut:
    entries = [
        QueueEntryOut(
            deployment_id=entry.deployment_id,
            project_id=entry.project_id,
            project_name=entry.project_name,
            environment=entry.environment,
            number=entry.number,
            state=_state(entry.state),
            position=entry.position,
            needs=_resources(entry.needs),
            waits_for=entry.waits_for,
            estimated_start=moment(entry.estimated_start) if entry.HasField("estimated_start") else None,
            queued_at=moment(entry.queued_at),
        )
        for entry in queue.entries
    ]
    return QueueOut(entries=entries, budget=_resources(queue.budget), reserved=_resources(queue.reserved))
