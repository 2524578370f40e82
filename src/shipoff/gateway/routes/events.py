"""Events that a service gave up on: for owners of the team that runs the platform, since they are every team's."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query

from shipoff.contracts.worker.v1 import worker_pb2
from shipoff.gateway import audit
from shipoff.gateway.access import OperatingTeam, Reach
from shipoff.gateway.models.common import Cursor, Limit, Page
from shipoff.gateway.models.events import (
    DeadEventFullOut,
    DeadEventOut,
    DeadEventsIn,
    DeadEventsOut,
    dead_event_full_out,
    dead_event_out,
)
from shipoff.gateway.routing import guarded

router = guarded("events")

_Id = Annotated[str, Path(min_length=1, max_length=200, description="As the list gives it.")]
_Only = Annotated[str, Query(max_length=100)]


@router.get("/v1/events/dead")
async def list_dead(
    team_id: OperatingTeam, reach: Reach, stream: _Only = "", group: _Only = "", limit: Limit = 50, cursor: Cursor = ""
) -> Page[DeadEventOut]:
    """Events that a service gave up on, oldest first, stream by stream."""
    answer = await reach.gateway.clients.worker.ListDeadEvents(
        worker_pb2.ListDeadEventsRequest(stream=stream, group=group, page_size=limit, page_token=cursor)
    )
    return Page(items=[dead_event_out(event) for event in answer.events], next_cursor=answer.next_page_token or None)


@router.post("/v1/events/dead/replay")
async def replay_all_dead(team_id: OperatingTeam, body: DeadEventsIn, reach: Reach) -> DeadEventsOut:
    """Gives all dead events, of a stream or a service where one is named, back to the services that failed."""
    return await _replay(reach, team_id, _all(body))


@router.post("/v1/events/dead/drop")
async def drop_all_dead(team_id: OperatingTeam, body: DeadEventsIn, reach: Reach) -> DeadEventsOut:
    """Removes all dead events, of a stream or a service where one is named, for good."""
    return await _drop(reach, team_id, _all(body))


@router.get("/v1/events/dead/{event_id}")
async def get_dead(team_id: OperatingTeam, event_id: _Id, reach: Reach) -> DeadEventFullOut:
    """One dead event with its payload."""
    return dead_event_full_out(await reach.gateway.clients.worker.GetDeadEvent(worker_pb2.GetDeadEventRequest(id=event_id)))


@router.post("/v1/events/dead/{event_id}/replay")
async def replay_dead(team_id: OperatingTeam, event_id: _Id, reach: Reach) -> DeadEventsOut:
    """Gives one dead event back to the service that failed, and to no other."""
    return await _replay(reach, team_id, worker_pb2.DeadEventChoice(id=event_id))


@router.delete("/v1/events/dead/{event_id}", status_code=204)
async def drop_dead(team_id: OperatingTeam, event_id: _Id, reach: Reach) -> None:
    """Removes one dead event for good."""
    await _drop(reach, team_id, worker_pb2.DeadEventChoice(id=event_id))


def _all(body: DeadEventsIn) -> worker_pb2.DeadEventChoice:
    return worker_pb2.DeadEventChoice(all=worker_pb2.AllDeadEvents(stream=body.stream, group=body.group))


async def _replay(reach: Reach, team_id: str, choice: worker_pb2.DeadEventChoice) -> DeadEventsOut:
    answer = await reach.gateway.clients.worker.ReplayDeadEvents(worker_pb2.ReplayDeadEventsRequest(events=choice))
    await audit.record(reach, "events.replay", team_id=team_id, object_id=_named(choice), detail=str(answer.count))
    return DeadEventsOut(count=answer.count)


async def _drop(reach: Reach, team_id: str, choice: worker_pb2.DeadEventChoice) -> DeadEventsOut:
    answer = await reach.gateway.clients.worker.DropDeadEvents(worker_pb2.DropDeadEventsRequest(events=choice))
    await audit.record(reach, "events.drop", team_id=team_id, object_id=_named(choice), detail=str(answer.count))
    return DeadEventsOut(count=answer.count)


def _named(choice: worker_pb2.DeadEventChoice) -> str:
    return choice.id or f"{choice.all.stream or '*'}:{choice.all.group or '*'}"
