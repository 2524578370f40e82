"""The timeline of a deployment: each state with who, why, when and how long. Called by routes/deployments.py."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import Field

from shipoff.contracts.orchestrator.v1 import orchestrator_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.gateway.models.common import Outgoing, moment, state_name
from shipoff.gateway.models.deployments import State


class AttemptOut(Outgoing):
    """One try of a build."""

    attempt: int
    started_at: datetime
    reason: str = Field(description="Why the one before did not count; empty for the first.")
    duration_s: float | None = Field(description="Null while it runs.")


class StayOut(Outgoing):
    """One state that the deployment was in."""

    state: State
    entered_at: datetime
    duration_s: float | None = Field(description="How long it was in the state; null for the one it is in.")
    actor: str = Field(description="Who brought it there: an e-mail address, github:<login>, or system.")
    reason: str
    attempts: list[AttemptOut] = Field(description="Of a build; empty for the other states.")


class TimelineOut(Outgoing):
    deployment_id: str
    number: int | None
    state: State
    total_s: float | None = Field(description="From acceptance to production; null for one that has not been there.")
    items: list[StayOut]


def timeline_out(deployment: orchestrator_pb2.Deployment) -> TimelineOut:
    """The timeline."""
    begun = orchestrator_pb2.Transition(
        to_state=types_pb2.DEPLOYMENT_STATE_QUEUED,
        actor=deployment.requested_by,
        time=deployment.created_at,
        reason=types_pb2.Trigger.Name(deployment.trigger).removeprefix("TRIGGER_").lower().replace("_", " "),
    )
    steps = [begun, *deployment.transitions]
    ends = [step.time for step in steps[1:]]
    production = types_pb2.DEPLOYMENT_STATE_PRODUCTION
    live = next((step.time for step in deployment.transitions if step.to_state == production), None)
    return TimelineOut(
        deployment_id=deployment.id,
        number=deployment.number or None,
        state=state_name(deployment.state),  # type: ignore[arg-type]  # the contract's names are these
        total_s=_seconds(deployment.created_at, live),
        items=[_stay(deployment, step, end) for step, end in zip(steps, [*ends, None], strict=True)],
    )


def _stay(deployment: orchestrator_pb2.Deployment, step: orchestrator_pb2.Transition, end: Timestamp | None) -> StayOut:
    building = step.to_state == types_pb2.DEPLOYMENT_STATE_BUILDING
    return StayOut(
        state=state_name(step.to_state),  # type: ignore[arg-type]  # the contract's names are these
        entered_at=moment(step.time),
        duration_s=_seconds(step.time, end),
        actor=step.actor,
        reason=step.reason,
        attempts=_attempts(deployment, step.time, end) if building else [],
    )


def _attempts(deployment: orchestrator_pb2.Deployment, begin: Timestamp, end: Timestamp | None) -> list[AttemptOut]:
    first = orchestrator_pb2.Retry(attempt=1, time=begin)
    tries = [first, *deployment.retries]
    ends = [one.time for one in tries[1:]]
    return [
        AttemptOut(attempt=one.attempt, started_at=moment(one.time), reason=one.reason, duration_s=_seconds(one.time, until))
        for one, until in zip(tries, [*ends, end], strict=True)
    ]


def _seconds(begin: Timestamp, end: Timestamp | None) -> float | None:
    """Between two moments of the platform's clock, in milliseconds' precision; None without an end."""
    return round(max((moment(end) - moment(begin)).total_seconds(), 0.0), 3) if end is not None else None
