"""gRPC ↔ domain."""

from __future__ import annotations

import asyncio
from typing import Any

from shipoff.contracts.detector.v1 import detector_pb2, detector_pb2_grpc
from shipoff.contracts.types.v1 import types_pb2
from shipoff.detector.domain import Argv, Detection, Mode, Plan, Problem, Settings, Snapshot, Step
from shipoff.detector.handlers import Circumstances, survey

_MODES = {
    Mode.STATIC: types_pb2.PLAN_MODE_STATIC,
    Mode.SPA: types_pb2.PLAN_MODE_SPA,
    Mode.SSR: types_pb2.PLAN_MODE_SSR,
    Mode.SERVER: types_pb2.PLAN_MODE_SERVER,
    Mode.WORKER: types_pb2.PLAN_MODE_WORKER,
}


class DetectorServicer(detector_pb2_grpc.DetectorServiceServicer):
    """shipoff.detector.v1.DetectorService."""

    async def Detect(self, request: detector_pb2.DetectRequest, context: Any) -> detector_pb2.DetectResponse:
        """The plan, or the problem in words; in a thread, since a large source takes a while to read."""
        snapshot = Snapshot(tuple(request.paths), dict(request.contents))
        circumstances = Circumstances(request.source_digest, request.builds_images)
        return response(await asyncio.to_thread(survey, snapshot, _settings(request.settings), circumstances))


def response(found: Detection) -> detector_pb2.DetectResponse:
    """The answer as the contract has it."""
    message = detector_pb2.DetectResponse(
        packages=[
            detector_pb2.Package(
                root=item.root, name=item.name, provider=item.provider, framework=item.framework, mode=_MODES[item.mode]
            )
            for item in found.packages
        ]
    )
    if isinstance(found.outcome, Problem):
        problem = found.outcome
        message.problem, message.field = problem.message, problem.field
        message.choices.extend(detector_pb2.Choice(value=item.value, meaning=item.meaning) for item in problem.choices)
    else:
        message.plan.CopyFrom(plan_message(found.outcome))
    return message


def _settings(message: types_pb2.BuildSettings) -> Settings:
    return Settings(
        root_directory=message.root_directory,
        install_command=message.install_command,
        build_command=message.build_command,
        start_command=message.start_command,
        output_directory=message.output_directory,
        provider=message.provider,
        package_manager=message.package_manager,
        dockerfile=message.dockerfile,
    )


def plan_message(plan: Plan) -> types_pb2.Plan:
    """The plan as the contract has it."""
    manager = plan.package_manager
    return types_pb2.Plan(
        schema=plan.schema,
        provider=plan.provider,
        framework=plan.framework,
        mode=_MODES[plan.mode],
        app_root=plan.app_root,
        package_manager=types_pb2.PackageManager(
            name=manager.name, version=manager.version, lockfile=manager.lockfile, frozen=manager.frozen
        ),
        runtimes=[
            types_pb2.RuntimeVersion(name=item.name, requested=item.requested, resolved=item.resolved, source=item.source)
            for item in plan.runtimes
        ],
        steps=[_step(step) for step in plan.steps],
        output_dir=plan.output_dir,
        processes=[types_pb2.PlanProcess(name=item.name, command=_command(item.command)) for item in plan.processes],
        health_path=plan.health_path,
        evidence=[types_pb2.Evidence(file=item.file, key=item.key, rule=item.rule) for item in plan.evidence],
        confidence=plan.confidence,
        alternatives=[
            types_pb2.Alternative(provider=item.provider, framework=item.framework, why_not=item.why_not)
            for item in plan.alternatives
        ],
        warnings=plan.warnings,
        source_digest=plan.source_digest,
        workspace_root=plan.workspace_root,
        artifacts=types_pb2.PlanArtifacts(include=plan.artifacts.include, exclude=plan.artifacts.exclude),
        port=plan.port,
        public_build_env=plan.public_build_env,
        dockerfile=plan.dockerfile,
        watch_paths=plan.watch_paths,
    )


def _step(step: Step) -> types_pb2.PlanStep:
    return types_pb2.PlanStep(
        name=step.name,
        commands=[_command(argv) for argv in step.commands],
        env=dict(step.env),
        caches=step.caches,
        inputs=step.inputs,
        network=step.network,
        secrets=step.secrets,
        folder=step.folder,
    )


def _command(argv: Argv) -> types_pb2.Command:
    return types_pb2.Command(argv=argv)
