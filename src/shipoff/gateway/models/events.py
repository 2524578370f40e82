"""Events that a service gave up on."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from pydantic import Field

from shipoff.contracts.worker.v1 import worker_pb2
from shipoff.gateway.models.common import Incoming, Outgoing, moment, moment_or_none


class DeadEventOut(Outgoing):
    id: str
    stream: str
    group: str = Field(description="The service that failed.")
    reason: str
    tries: int
    buried_at: datetime
    event_id: str | None = Field(description="Null, as the fields after it, where the entry was no event at all.")
    event_type: str | None
    team_id: str | None
    event_time: datetime | None


class DeadEventFullOut(DeadEventOut):
    payload: dict[str, Any] | None = Field(description="As protobuf writes JSON; sealed variables by name only.")


class DeadEventsIn(Incoming):
    stream: str = Field(default="", max_length=100, description="Only of this stream, as `deployment.queue`.")
    group: str = Field(default="", max_length=100, description="Only of this service.")


class DeadEventsOut(Outgoing):
    count: int


def dead_event_out(event: worker_pb2.DeadEvent) -> DeadEventOut:
    return DeadEventOut(**_fields(event))


def dead_event_full_out(answer: worker_pb2.GetDeadEventResponse) -> DeadEventFullOut:
    payload = json.loads(answer.payload_json) if answer.payload_json else None
    return DeadEventFullOut(**_fields(answer.event), payload=payload)


def _fields(event: worker_pb2.DeadEvent) -> dict[str, Any]:
    return {
        "id": event.id,
        "stream": event.stream,
        "group": event.group,
        "reason": event.reason,
        "tries": event.tries,
        "buried_at": moment(event.buried_at),
        "event_id": event.event_id or None,
        "event_type": event.event_type or None,
        "team_id": event.team_id or None,
        "event_time": moment_or_none(event.event_time),
    }
