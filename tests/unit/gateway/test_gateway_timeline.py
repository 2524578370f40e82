"""The timeline of a deployment: who, why, when, how long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from shipoff.contracts.orchestrator.v1 import orchestrator_pb2 as pb
from shipoff.contracts.types.v1 import types_pb2
from shipoff.gateway.models.timeline import timeline_out

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def step(after_s: float, before: str, after: str, reason: str = "") -> pb.Transition:
    state = types_pb2.DeploymentState.Value
    made = pb.Transition(
        from_state=state(f"DEPLOYMENT_STATE_{before}"),
        to_state=state(f"DEPLOYMENT_STATE_{after}"),
        reason=reason,
        actor="system",
    )
    made.time.FromDatetime(BEGIN + timedelta(seconds=after_s))
    return made


def deployment(*steps: pb.Transition) -> pb.Deployment:
    made = pb.Deployment(
        id="d", number=4, trigger=types_pb2.TRIGGER_ROLLBACK, requested_by="u-1", transitions=steps,
        state=steps[-1].to_state if steps else types_pb2.DEPLOYMENT_STATE_QUEUED,
    )  # fmt: skip
    made.created_at.FromDatetime(BEGIN)
    return made


def test_each_state_has_its_length_and_the_present_one_none():
    found = timeline_out(
        deployment(step(1.5, "QUEUED", "PROVISIONING", "puts #1 back"), step(2.25, "PROVISIONING", "PRODUCTION")),
    )
    assert [(stay.state, stay.duration_s) for stay in found.items] == [
        ("queued", 1.5),
        ("provisioning", 0.75),
        ("production", None),
    ]
    assert [stay.actor for stay in found.items] == ["u-1", "system", "system"]
    assert [stay.reason for stay in found.items] == ["rollback", "puts #1 back", ""]
    assert found.total_s == 2.25


def test_a_build_tells_of_each_attempt_and_why_there_was_another():
    made = deployment(step(1, "QUEUED", "BUILDING"), step(10, "BUILDING", "FAILED", "it broke"))
    retry = pb.Retry(attempt=2, reason="the builder was lost")
    retry.time.FromDatetime(BEGIN + timedelta(seconds=4))
    made.retries.append(retry)
    found = timeline_out(made)
    assert [(a.attempt, a.duration_s, a.reason) for a in found.items[1].attempts] == [
        (1, 3, ""),
        (2, 6, "the builder was lost"),
    ]
    assert [len(stay.attempts) for stay in found.items] == [0, 2, 0]
    assert found.items[0].actor == "u-1"
    assert found.total_s is None


def test_one_that_waits_has_a_beginning_only():
    found = timeline_out(deployment())
    assert [(stay.state, stay.duration_s) for stay in found.items] == [("queued", None)]
