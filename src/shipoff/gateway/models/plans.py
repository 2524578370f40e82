"""Plans in their canonical form: docs/adr/0010-the-plan-s-schema.md."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from shipoff.contracts.detector.v1 import detector_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.gateway.models.common import Incoming, Outgoing
from shipoff.gateway.models.deployments import EvidenceOut
from shipoff.gateway.models.projects import BuildIn

_Path = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class DetectIn(Incoming):
    """A snapshot: every file's path, and the text of manifests, lock files and the files an app may start from."""

    paths: list[_Path] = Field(max_length=100_000)
    contents: dict[str, str] = Field(default_factory=dict, max_length=5000)
    source_digest: str = Field(default="", pattern="^(sha256:[0-9a-f]{64})?$")
    project: str | None = Field(default=None, max_length=300, description="Its settings are taken; an id or a name.")
    build: BuildIn | None = Field(default=None, description="Settings that come before the project's.")


class PackageManagerOut(Outgoing):
    name: str
    version: str
    lockfile: str
    frozen: bool


class RuntimeVersionOut(Outgoing):
    name: str
    requested: str
    resolved: str
    source: str


class PlanStepOut(Outgoing):
    name: str
    inputs: list[str]
    commands: list[list[str]]
    env: dict[str, str]
    caches: list[str]
    secrets: list[str]
    network: bool
    folder: str


class PlanArtifactsOut(Outgoing):
    include: list[str]
    exclude: list[str]


class AlternativeOut(Outgoing):
    provider: str
    framework: str
    why_not: str


class CanonicalPlanOut(Outgoing):
    plan_schema: int = Field(serialization_alias="schema")
    source_digest: str
    app_root: str
    workspace_root: str
    provider: str
    framework: str
    mode: str = Field(description="static, spa, ssr, server or worker.")
    package_manager: PackageManagerOut
    runtimes: list[RuntimeVersionOut]
    steps: list[PlanStepOut]
    artifacts: PlanArtifactsOut
    output_dir: str
    processes: dict[str, list[str]]
    port: int = Field(description="0: the one in PORT.")
    healthcheck: str
    public_build_env: list[str]
    dockerfile: str
    watch_paths: list[str]
    evidence: list[EvidenceOut]
    confidence: float
    alternatives: list[AlternativeOut]
    warnings: list[str]


class ChoiceOut(Outgoing):
    value: str
    meaning: str


class QuestionOut(Outgoing):
    """Why there is no plan."""

    message: str
    field: str = Field(description="The setting that decides it; empty: none does.")
    choices: list[ChoiceOut]


class PackageOut(Outgoing):
    root: str
    name: str
    provider: str
    framework: str
    mode: str


class DetectOut(Outgoing):
    plan: CanonicalPlanOut | None
    problem: QuestionOut | None
    packages: list[PackageOut] = Field(description="The apps of a repository that holds several.")


def detect_out(answer: detector_pb2.DetectResponse) -> DetectOut:
    """A plan, or a question."""
    choices = [ChoiceOut(value=item.value, meaning=item.meaning) for item in answer.choices]
    planned = answer.HasField("plan")
    return DetectOut(
        plan=canonical_plan(answer.plan) if planned else None,
        problem=None if planned else QuestionOut(message=answer.problem, field=answer.field, choices=choices),
        packages=[
            PackageOut(root=item.root, name=item.name, provider=item.provider, framework=item.framework, mode=_mode(item.mode))
            for item in answer.packages
        ],
    )


def canonical_plan(plan: types_pb2.Plan) -> CanonicalPlanOut:
    """The plan with every key."""
    manager = plan.package_manager
    return CanonicalPlanOut(
        plan_schema=plan.schema,
        source_digest=plan.source_digest,
        app_root=plan.app_root,
        workspace_root=plan.workspace_root,
        provider=plan.provider,
        framework=plan.framework,
        mode=_mode(plan.mode),
        package_manager=PackageManagerOut(
            name=manager.name, version=manager.version, lockfile=manager.lockfile, frozen=manager.frozen
        ),
        runtimes=[
            RuntimeVersionOut(name=item.name, requested=item.requested, resolved=item.resolved, source=item.source)
            for item in plan.runtimes
        ],
        steps=[_step(step) for step in plan.steps],
        artifacts=PlanArtifactsOut(include=list(plan.artifacts.include), exclude=list(plan.artifacts.exclude)),
        output_dir=plan.output_dir,
        processes={process.name: list(process.command.argv) for process in plan.processes},
        port=plan.port,
        healthcheck=plan.health_path,
        public_build_env=list(plan.public_build_env),
        dockerfile=plan.dockerfile,
        watch_paths=list(plan.watch_paths),
        evidence=[EvidenceOut(file=item.file, key=item.key, rule=item.rule) for item in plan.evidence],
        confidence=plan.confidence,
        alternatives=[
            AlternativeOut(provider=item.provider, framework=item.framework, why_not=item.why_not) for item in plan.alternatives
        ],
        warnings=list(plan.warnings),
    )


def _step(step: types_pb2.PlanStep) -> PlanStepOut:
    return PlanStepOut(
        name=step.name,
        inputs=list(step.inputs),
        commands=[list(command.argv) for command in step.commands],
        env=dict(step.env),
        caches=list(step.caches),
        secrets=list(step.secrets),
        network=step.network,
        folder=step.folder,
    )


def _mode(mode: types_pb2.PlanMode.ValueType) -> str:
    return types_pb2.PlanMode.Name(mode).removeprefix("PLAN_MODE_").lower()
