"""The queue as its callers see it: positions, expected starts, and what each entry waits for. Called by server.py."""

from __future__ import annotations

from datetime import timedelta

from shipoff.contracts.orchestrator.v1 import orchestrator_pb2 as pb
from shipoff.contracts.types.v1 import types_pb2
from shipoff.orchestrator import messages
from shipoff.orchestrator.admission import (
    Forecast,
    Queue,
    QueueEntry,
    Terms,
    forecast,
    is_waiting,
    sized,
    starting_order,
    usual_duration,
    waits_for,
)
from shipoff.orchestrator.domain import Resources

# A build of which nothing is known.
_USUAL_S = 60.0


def shown(queue: Queue, terms: Terms, teams: frozenset[str] | None) -> pb.ListQueueResponse:
    """What builds, then what waits in its order; only these teams' entries, and only their names (None: all)."""
    ceiling = queue.reserved.ceiling
    building = [entry for entry in queue.entries if not is_waiting(entry)]
    waiting = [sized(entry, terms, ceiling) for entry in queue.entries if is_waiting(entry)]
    ordered = starting_order(waiting, queue.turns, terms.weights)
    usual_s = usual_duration(queue.entries, _USUAL_S)
    outlooks = forecast(ordered, building, queue.reserved.free, ceiling=ceiling, usual_s=usual_s)
    answer = pb.ListQueueResponse(budget=_resources(queue.reserved.budget), reserved=_resources(queue.reserved.reserved))
    for entry in building:
        if teams is None or entry.deployment.team_id in teams:
            answer.entries.append(_message(queue, entry, entry.held, 0))
    for place, (entry, outlook) in enumerate(zip(ordered, outlooks, strict=True), 1):
        if teams is None or entry.deployment.team_id in teams:
            message = _message(queue, entry, entry.needs, place)
            _look_out(message, queue, outlook, waits_for(entry, outlook, teams))
            answer.entries.append(message)
    return answer


def _look_out(message: pb.QueueEntry, queue: Queue, outlook: Forecast, words: str) -> None:
    message.waits_for = words
    if outlook.starts_in_s is not None:
        message.estimated_start.FromDatetime(queue.now + timedelta(seconds=outlook.starts_in_s))


def _message(queue: Queue, entry: QueueEntry, needs: Resources, place: int) -> pb.QueueEntry:
    now = entry.deployment
    message = pb.QueueEntry(
        deployment_id=now.id,
        project_id=now.project_id,
        project_name=now.project_name,
        team_id=now.team_id,
        environment=now.environment,
        number=now.number,
        state=messages.state_number(now.state),
        position=place,
        needs=_resources(needs),
    )
    message.queued_at.FromDatetime(queue.records[now.id].created_at)
    return message


def _resources(value: Resources) -> types_pb2.Resources:
    return types_pb2.Resources(
        cpu_millis=value.cpu_millis,
        memory_bytes=value.memory_bytes,
        cluster_cpu_millis=value.cluster_cpu_millis,
        cluster_memory_bytes=value.cluster_memory_bytes,
    )
