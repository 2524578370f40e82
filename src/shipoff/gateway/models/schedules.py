"""Schedules: what a project has, and what became of those that are live."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field, StringConstraints

from shipoff.contracts.runtime.v1 import commands_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.gateway.models.common import Incoming, Outgoing, moment_or_none

_NAME = r"^[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?$"


class ScheduleIn(Incoming):
    name: str = Field(pattern=_NAME, description="Small letters, digits and hyphens, at most 30; once in a project.")
    cron: str = Field(min_length=1, max_length=100, description="Minute, hour, day, month, weekday (0 is Sunday), in UTC.")
    command: list[Annotated[str, StringConstraints(max_length=4096)]] = Field(
        min_length=1, max_length=200, description="Arguments, the program first; no shell reads them."
    )


class SchedulesIn(Incoming):
    schedules: list[ScheduleIn] = Field(max_length=20, description="All of them: what is left out is removed.")


class ScheduleOut(Outgoing):
    name: str
    cron: str
    command: list[str]


class LiveScheduleOut(ScheduleOut):
    next_run: datetime | None = Field(description="Null while the app is paused.")
    last_run: datetime | None
    outcome: str = Field(description="running, succeeded, or failed with the reason; empty: it has not run yet.")


class SchedulesOut(Outgoing):
    configured: list[ScheduleOut] = Field(description="Of the project: taken into a deployment when it is made.")
    live: list[LiveScheduleOut] = Field(description="Of the deployment that is live in the environment.")


def schedules_of(body: SchedulesIn) -> list[types_pb2.Schedule]:
    return [types_pb2.Schedule(name=one.name, cron=one.cron, argv=one.command) for one in body.schedules]


def schedule_out(schedule: types_pb2.Schedule) -> ScheduleOut:
    return ScheduleOut(name=schedule.name, cron=schedule.cron, command=list(schedule.argv))


def live_schedule_out(status: commands_pb2.ScheduleStatus) -> LiveScheduleOut:
    return LiveScheduleOut(
        **schedule_out(status.schedule).model_dump(),
        next_run=moment_or_none(status.next_run),
        last_run=moment_or_none(status.last_run),
        outcome=status.outcome,
    )
