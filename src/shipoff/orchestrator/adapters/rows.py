"""Between rows and the domain's values."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from shipoff.common.postgres import Row
from shipoff.common.telemetry import Context
from shipoff.contracts.types.v1 import types_pb2
from shipoff.orchestrator.domain import Deployment, Endpoint, Instruction, Resources, State
from shipoff.orchestrator.records import History, Record, Retry, Step, Task

COLUMNS = (
    "id, number, accepted_at, project_id, project_name, team_id, environment, state, version, attempt, static, artifact,"
    " plan, commit, reason, revision, endpoints, request, branch, commit_message, trigger, requested_by, origin_id,"
    " artifact_expired, broke, created_at, changed_at, slot_cpu_millis, slot_memory_bytes, out_of_memory, awaits_slot,"
    " replicas, paused, request_id, traceparent"
)

TASK = ("id", "lease_token", "deployment_id", "instruction", "attempt", "tries")


def task(row: Row) -> Task:
    """A claimed instruction."""
    return Task(
        id=row["id"],
        token=row["lease_token"],
        deployment_id=str(row["deployment_id"]),
        instruction=Instruction(row["instruction"]),
        attempt=row["attempt"],
        tries=row["tries"],
    )


def deployment(row: Row) -> Deployment:
    """The part that decisions are made on."""
    return Deployment(
        id=str(row["id"]),
        number=row["number"],
        project_id=str(row["project_id"]),
        team_id=str(row["team_id"]),
        environment=row["environment"],
        state=State(row["state"]),
        accepted_at=row["accepted_at"],
        version=row["version"],
        attempt=row["attempt"],
        static=row["static"],
        artifact=bytes(row["artifact"]),
        plan=bytes(row["plan"]),
        commit=row["commit"],
        reason=row["reason"],
        revision=row["revision"],
        endpoints=endpoints(row["endpoints"]),
        automatic=row["trigger"] == types_pb2.TRIGGER_AUTOMATIC_ROLLBACK,
        broke=row["broke"],
        project_name=row["project_name"],
        slot=Resources(row["slot_cpu_millis"], row["slot_memory_bytes"]),
        out_of_memory=row["out_of_memory"],
        awaits_slot=row["awaits_slot"],
        replicas=row["replicas"],
        paused=row["paused"],
        context=Context(row["request_id"], str(row["team_id"]), row["traceparent"]),
    )


def endpoints(stored: Any) -> tuple[Endpoint, ...]:
    """From the JSON column, whether the driver decodes it or not."""
    if stored == "[]":
        return ()
    items = json.loads(stored) if isinstance(stored, str) else stored
    return tuple(Endpoint(item["host"], item["port"]) for item in items)


def record(row: Row) -> Record:
    """All of a deployment."""
    return Record(
        deployment=deployment(row),
        project_name=row["project_name"],
        request=bytes(row["request"]),
        branch=row["branch"],
        commit_message=row["commit_message"],
        trigger=row["trigger"],
        requested_by=row["requested_by"],
        origin_id=str(row["origin_id"] or ""),
        artifact_expired=row["artifact_expired"],
        created_at=row["created_at"],
        changed_at=row["changed_at"],
    )


def history(row: Row) -> History:
    """All of a deployment, with `steps` and `retries` as JSON arrays of rows (the driver decodes them), or null for none."""
    steps, retries = row["steps"] or (), row["retries"] or ()
    return History(record(row), tuple(map(_step, steps)), tuple(map(_retry, retries)))


def _step(row: Row) -> Step:
    return Step(
        from_state=State(row["from_state"]),
        to_state=State(row["to_state"]),
        reason=row["reason"],
        actor=row["actor"],
        time=datetime.fromisoformat(row["time"]),
    )


def _retry(row: Row) -> Retry:
    return Retry(attempt=row["attempt"], reason=row["reason"], time=datetime.fromisoformat(row["time"]))
