"""What a project runs at times of its own."""

from __future__ import annotations

from shipoff.common.errors import NotFound
from shipoff.contracts.project.v1 import project_pb2
from shipoff.contracts.runtime.v1 import commands_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.gateway import audit
from shipoff.gateway.access import ChangedProject, Platform, Reach, ViewedProject
from shipoff.gateway.context import Gateway
from shipoff.gateway.deploying import newest
from shipoff.gateway.models.common import EnvironmentQuery
from shipoff.gateway.models.schedules import (
    LiveScheduleOut,
    SchedulesIn,
    SchedulesOut,
    live_schedule_out,
    schedule_out,
    schedules_of,
)
from shipoff.gateway.routing import guarded

router = guarded("running")


@router.get("/v1/projects/{project}/schedules")
async def list_schedules(
    project: ViewedProject, gateway: Platform, environment: EnvironmentQuery = "production"
) -> SchedulesOut:
    """The project's schedules, and those that are live with their last and next runs."""
    return await _shown(gateway, project, environment)


@router.put("/v1/projects/{project}/schedules")
async def put_schedules(project: ChangedProject, body: SchedulesIn, reach: Reach) -> SchedulesOut:
    """Replaces the project's schedules, for the deployments to come."""
    run = types_pb2.RunSettings()
    run.CopyFrom(project.run)
    del run.schedules[:]
    run.schedules.extend(schedules_of(body))
    request = project_pb2.UpdateProjectRequest(project_id=project.id, run=run)
    answer = await reach.gateway.clients.project.UpdateProject(request)
    detail = ", ".join(f"{one.name}: {one.cron}" for one in body.schedules)[:500]
    await audit.record(reach, "project.schedules", team_id=project.team_id, object_id=project.id, detail=detail)
    return await _shown(reach.gateway, answer.project, "production")


async def _shown(gateway: Gateway, project: project_pb2.Project, environment: str) -> SchedulesOut:
    live = await _live(gateway, project.id, environment)
    return SchedulesOut(configured=[schedule_out(one) for one in project.run.schedules], live=live)


async def _live(gateway: Gateway, project_id: str, environment: str) -> list[LiveScheduleOut]:
    """None where nothing runs: a static site, or nothing is deployed."""
    live = await newest(gateway, project_id, environment, state=types_pb2.DEPLOYMENT_STATE_PRODUCTION)
    if live is None:
        return []
    try:
        answer = await gateway.clients.schedules.ListSchedules(commands_pb2.ListSchedulesRequest(deployment_id=live.id))
    except NotFound:
        return []
    return [live_schedule_out(one) for one in answer.schedules]
