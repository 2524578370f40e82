"""How far schedules are, in PostgreSQL; and what their commands write, into the files that the log agent ships."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import sqlalchemy as sa

from shipoff.common.accounts import tenant_uid
from shipoff.common.postgres import Database
from shipoff.runtime.adapters.logfiles import LogFiles
from shipoff.runtime.adapters.postgres import workload_of_row, workloads
from shipoff.runtime.domain import InstanceKey, Workload
from shipoff.runtime.schedules import RUNNING, ScheduleRun

_LIVE = "{0}.was_ready AND NOT {0}.settled AND {0}.phase IN ('starting', 'ready', 'degraded')"
# Ids grow with time: the greatest is the newest.
_NEWEST = (
    "NOT EXISTS (SELECT FROM workloads n WHERE (n.project_id, n.environment) = (w.project_id, w.environment)"
    f" AND n.deployment_id > w.deployment_id AND {_LIVE.format('n')})"
)
_LIVE_IDS = (
    f"SELECT w.deployment_id FROM workloads w WHERE w.schedules <> '[]' AND NOT w.paused AND {_LIVE.format('w')} AND {_NEWEST}"
)
_SCHEDULED = sa.select(workloads).where(sa.text(f"deployment_id IN ({_LIVE_IDS})"))
_PLACE = "project_id = CAST(:project_id AS uuid) AND environment = :environment"
_RUNS = sa.text(f"SELECT name, seen_at, started_at, outcome FROM schedules WHERE {_PLACE}")
_BEGIN = sa.text(
    "INSERT INTO schedules (project_id, environment, name, seen_at)"
    " VALUES (CAST(:project_id AS uuid), :environment, :name, :now) ON CONFLICT DO NOTHING"
)
_CLAIM = sa.text(
    "UPDATE schedules SET seen_at = :now, started_at = CASE WHEN :runs THEN :now ELSE started_at END,"
    f" outcome = CASE WHEN :runs THEN '{RUNNING}' ELSE outcome END"
    f" WHERE {_PLACE} AND name = :name AND seen_at = :seen_at"
)
_ENDED = sa.text(f"UPDATE schedules SET outcome = :outcome WHERE {_PLACE} AND name = :name")
_LOST = sa.text(f"UPDATE schedules SET outcome = 'failed: the platform was stopped' WHERE outcome = '{RUNNING}'")


class PostgresSchedules:
    """`ports.ScheduleStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def scheduled(self) -> Sequence[Workload]:
        return [workload_of_row(row) for row in await self._database.all(_SCHEDULED)]

    async def runs(self, workload: Workload) -> Mapping[str, ScheduleRun]:
        rows = await self._database.all(_RUNS, _place(workload))
        return {row["name"]: ScheduleRun(row["seen_at"], row["started_at"], row["outcome"]) for row in rows}

    async def begin(self, workload: Workload, name: str, *, now: float) -> None:
        await self._execute(_BEGIN, {**_place(workload), "name": name, "now": now})

    async def claim(self, workload: Workload, name: str, *, seen_at: float, now: float, runs: bool) -> bool:
        values = {**_place(workload), "name": name, "seen_at": seen_at, "now": now, "runs": runs}
        return await self._execute(_CLAIM, values) == 1

    async def ended(self, workload: Workload, name: str, outcome: str) -> None:
        await self._execute(_ENDED, {**_place(workload), "name": name, "outcome": outcome})

    async def runs_were_lost(self) -> None:
        await self._execute(_LOST, {})

    async def _execute(self, statement: sa.TextClause, values: Mapping[str, object]) -> int:
        async with self._database.transaction() as tx:
            return await tx.execute(statement, values)


def _place(workload: Workload) -> dict[str, object]:
    return {"project_id": workload.project_id, "environment": workload.environment}


class FileLogs:
    """`ports.ScheduleLogs` beside the files of the instances."""

    def __init__(self, files: LogFiles) -> None:
        self._files = files
        self._open: set[InstanceKey] = set()

    def is_open(self, key: InstanceKey) -> bool:
        """Whether a run still writes there."""
        return key in self._open

    @contextmanager
    def opened(self, workload: Workload, name: str, number: int) -> Iterator[Callable[[str, bytes], None]]:
        # No process of a plan is called so.
        key = InstanceKey(workload.deployment_id, f"_schedule-{name}", 0, number)
        self._open.add(key)
        stdout, stderr = self._files.create(workload, key, tenant_uid(workload.project_id))
        try:
            yield lambda channel, data: _write(stderr if channel == "stderr" else stdout, data)
        finally:
            os.close(stdout)
            os.close(stderr)
            self._open.discard(key)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
