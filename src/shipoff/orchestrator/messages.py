"""Between the contracts' messages and the domain's events and values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from shipoff.common.telemetry import Context, current
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.orchestrator.v1 import orchestrator_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.orchestrator.domain import BuildFailed, BuildSucceeded, Deployment, Endpoint, Resources, State
from shipoff.orchestrator.records import NewDeployment, Record, Retry, Step, Used


def state_number(state: State) -> types_pb2.DeploymentState.ValueType:
    """The contract's number of a state."""
    return types_pb2.DeploymentState.Value(f"DEPLOYMENT_STATE_{state.name}")


def state_of(number: types_pb2.DeploymentState.ValueType) -> State:
    """The state of the contract's number. Raises KeyError for unspecified."""
    return State[types_pb2.DeploymentState.Name(number).removeprefix("DEPLOYMENT_STATE_")]


def endpoints(messages: Iterable[types_pb2.Endpoint]) -> tuple[Endpoint, ...]:
    """The addresses, sorted, so that the same set is the same value."""
    return tuple(sorted((Endpoint(m.host, m.port) for m in messages), key=lambda e: (e.host, e.port)))


def build_succeeded(message: events_pb2.BuildSucceeded) -> BuildSucceeded:
    """The domain's event."""
    return BuildSucceeded(
        attempt=message.attempt,
        artifact=message.artifact.SerializeToString(),
        plan=message.plan.SerializeToString(),
        static=message.artifact.kind == types_pb2.ARTIFACT_KIND_STATIC,
        commit=message.commit,
    )


def build_failed(message: events_pb2.BuildFailed) -> BuildFailed:
    """The domain's event."""
    lost = message.failure == events_pb2.BUILD_FAILURE_BUILDER_LOST
    return BuildFailed(
        attempt=message.attempt,
        reason=message.reason or "the build failed",
        lost=lost,
        out_of_memory=message.failure == events_pb2.BUILD_FAILURE_OUT_OF_MEMORY,
        step=message.step,
        peak_memory_bytes=message.usage.peak_memory_bytes,
    )


def used(usage: types_pb2.Usage) -> Used | None:
    """What a build used; None when it was not measured."""
    if usage.wall_s <= 0:
        return None
    return Used(Resources(int(1000 * usage.cpu_s / usage.wall_s), usage.peak_memory_bytes), usage.wall_s)


def new_deployment(message: events_pb2.DeploymentRequested, context: Context) -> NewDeployment:
    """What the queue asks for, under the event's ids. The sealed variables stay inside the request's bytes."""
    return NewDeployment(
        id=message.deployment_id,
        project_id=message.project_id,
        project_name=message.project_name,
        team_id=message.team_id,
        environment=message.environment,
        request=message.SerializeToString(),
        branch=message.branch,
        commit=message.source.git.commit,
        commit_message=message.commit_message,
        trigger=message.trigger,
        requested_by=message.requested_by,
        accepted_at=message.requested_at.ToDatetime(tzinfo=UTC),
        context=context,
    )


def runs_release_command(request: events_pb2.DeploymentRequested) -> bool:
    """Whether a deployment runs the release command of its plan; one that goes back to an earlier release does not.

    What that release's command did was done when it was first deployed, and what came since is not undone by it.
    """
    return request.trigger not in (types_pb2.TRIGGER_ROLLBACK, types_pb2.TRIGGER_AUTOMATIC_ROLLBACK)


@dataclass(frozen=True)
class Copy:
    """What is another in a deployment of an artifact that exists; empty and None: as in its origin."""

    deployment_id: str
    trigger: types_pb2.Trigger.ValueType
    requested_by: str
    accepted_at: datetime
    environment: str = ""
    configuration: types_pb2.Configuration | None = None
    hosts: tuple[str, ...] = ()


def copied(origin: Record, copy: Copy) -> NewDeployment:
    """A new deployment of the origin's artifact, under the ids of what is being done."""
    facts = events_pb2.DeploymentRequested.FromString(origin.request)
    facts.deployment_id = copy.deployment_id
    facts.environment = copy.environment or origin.deployment.environment
    facts.trigger = copy.trigger
    facts.requested_by = copy.requested_by
    facts.requested_at.FromDatetime(copy.accepted_at)
    if copy.configuration is not None:
        facts.configuration.CopyFrom(copy.configuration)
    if copy.hosts:
        del facts.hosts[:]
        facts.hosts.extend(copy.hosts)
    return NewDeployment(
        id=copy.deployment_id,
        project_id=origin.deployment.project_id,
        project_name=origin.project_name,
        team_id=origin.deployment.team_id,
        environment=facts.environment,
        request=facts.SerializeToString(),
        branch=origin.branch,
        commit=origin.deployment.commit,
        commit_message=origin.commit_message,
        trigger=copy.trigger,
        requested_by=copy.requested_by,
        accepted_at=copy.accepted_at,
        origin_id=origin.deployment.id,
        artifact=origin.deployment.artifact,
        plan=origin.deployment.plan,
        static=origin.deployment.static,
        context=current(),
    )


def deployment(record: Record, steps: Iterable[Step] = (), retries: Iterable[Retry] = ()) -> orchestrator_pb2.Deployment:
    """The contract's view of a stored deployment."""
    now = record.deployment
    request = events_pb2.DeploymentRequested.FromString(record.request)
    message = orchestrator_pb2.Deployment(
        id=now.id,
        number=now.number,
        project_id=now.project_id,
        project_name=record.project_name,
        team_id=now.team_id,
        environment=now.environment,
        state=state_number(now.state),
        reason=now.reason,
        source=request.source,
        branch=record.branch,
        commit=now.commit,
        commit_message=record.commit_message,
        trigger=types_pb2.Trigger.ValueType(record.trigger),
        requested_by=record.requested_by,
        hosts=request.hosts,
        version=now.version,
        transitions=[_transition(step) for step in steps],
        variable_versions=request.configuration.variables.versions,
        origin_deployment_id=record.origin_id,
        configuration_version=request.configuration.version,
        build=request.configuration.build,
        run=request.configuration.run,
        retries=[_retry(retry) for retry in retries],
        paused=now.paused,
    )
    message.created_at.FromDatetime(record.created_at)
    message.changed_at.FromDatetime(record.changed_at)
    if now.artifact and not record.artifact_expired:
        message.artifact.ParseFromString(now.artifact)
    if now.plan:
        message.plan.ParseFromString(now.plan)
    return message


def state_changed(record: Record, before: Deployment) -> events_pb2.DeploymentStateChanged:
    """The news of a transition."""
    now = record.deployment
    event = events_pb2.DeploymentStateChanged(
        deployment_id=now.id,
        project_id=now.project_id,
        project_name=record.project_name,
        team_id=now.team_id,
        environment=now.environment,
        number=now.number,
        from_state=state_number(before.state),
        to_state=state_number(now.state),
        reason=now.reason,
        version=now.version,
        hosts=events_pb2.DeploymentRequested.FromString(record.request).hosts,
        commit=now.commit,
    )
    event.time.FromDatetime(record.changed_at)
    return event


def _transition(step: Step) -> orchestrator_pb2.Transition:
    message = orchestrator_pb2.Transition(
        from_state=state_number(step.from_state), to_state=state_number(step.to_state), reason=step.reason, actor=step.actor
    )
    message.time.FromDatetime(step.time)
    return message


def _retry(retry: Retry) -> orchestrator_pb2.Retry:
    message = orchestrator_pb2.Retry(attempt=retry.attempt, reason=retry.reason)
    message.time.FromDatetime(retry.time)
    return message
