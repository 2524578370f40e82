"""The stored deployments on PostgreSQL: ports.Store. Leases and deadlines run on the database's clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import sqlalchemy as sa

from shipoff.common.outbox import Outbox
from shipoff.common.postgres import Database, Transaction, unnested
from shipoff.common.streams import DEPLOYMENT_PROGRESS
from shipoff.common.telemetry import working_on
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.orchestrator.adapters import admission, routes, rows
from shipoff.orchestrator.adapters.retention import Retention
from shipoff.orchestrator.adapters.rows import COLUMNS
from shipoff.orchestrator.adapters.work import BY_ID, PRODUCTION, Limits, PostgresWork, Wakes
from shipoff.orchestrator.admission import Queue, Terms
from shipoff.orchestrator.domain import Deployment, Resources, State
from shipoff.orchestrator.records import Held, History, Record, Task

_SET_BUDGET = sa.text(
    "UPDATE budget SET cpu_millis = GREATEST(:cpu, cpu_millis_reserved),"
    " memory_bytes = GREATEST(:memory, memory_bytes_reserved),"
    " cluster_cpu_millis = GREATEST(:cluster_cpu, cluster_cpu_millis_reserved),"
    " cluster_memory_bytes = GREATEST(:cluster_memory, cluster_memory_bytes_reserved)"
    " WHERE (cpu_millis, memory_bytes, cluster_cpu_millis, cluster_memory_bytes)"
    " <> (:cpu, :memory, :cluster_cpu, :cluster_memory)"
)
_HISTORY = sa.text(
    f"SELECT {COLUMNS},"
    " (SELECT json_agg(t ORDER BY t.version) FROM transitions t WHERE t.deployment_id = deployments.id) AS steps,"
    " (SELECT json_agg(r ORDER BY r.attempt) FROM retries r WHERE r.deployment_id = deployments.id) AS retries"
    " FROM deployments WHERE id = :id"
)
_CLAIM = sa.text(
    "UPDATE instructions SET lease_token = lease_token + 1, tries = tries + 1,"
    " lease_until = clock_timestamp() + make_interval(secs => :lease_s)"
    " WHERE id IN (SELECT id FROM instructions WHERE due_at <= clock_timestamp()"
    "  AND (lease_until IS NULL OR lease_until < clock_timestamp()) ORDER BY due_at, id LIMIT :limit FOR UPDATE SKIP LOCKED)"
    f" RETURNING {', '.join(rows.TASK)}"
)
# What is being finished at this moment needs no lease, and is not waited for.
_RENEW = sa.text(
    "UPDATE instructions SET lease_until = clock_timestamp() + make_interval(secs => :lease_s) WHERE id IN (SELECT i.id"
    f"  FROM instructions i JOIN {unnested({'id': 'bigint', 'token': 'bigint'})}"
    "  ON i.id = given.id AND i.lease_token = given.token FOR UPDATE OF i SKIP LOCKED)"
)
_WAITING = sa.text("SELECT 1 FROM deployments WHERE state = 'queued' OR (state = 'building' AND awaits_slot) LIMIT 1")
_BY_IDS = sa.text(f"SELECT {COLUMNS} FROM deployments WHERE id = ANY(CAST(:ids AS uuid[]))")
_PUT_OFF = sa.text(
    "UPDATE instructions SET lease_until = NULL, due_at = clock_timestamp() + make_interval(secs => :delay_s)"
    " WHERE id = :id AND lease_token = :token"
)
_OVERDUE = sa.text(
    "SELECT id, CASE WHEN state = 'queued' OR awaits_slot THEN queued_limit_s WHEN state = 'building' THEN building_limit_s"
    " ELSE provisioning_limit_s END AS limit_s FROM deployments"
    " WHERE state IN ('queued', 'building', 'provisioning') AND deadline_at < clock_timestamp() LIMIT 100"
)
_UNCHECKED = sa.text(
    "UPDATE deployments SET checked_at = clock_timestamp() WHERE id IN (SELECT id FROM deployments"
    "  WHERE state IN ('building', 'provisioning') AND NOT awaits_slot"
    "  AND checked_at < clock_timestamp() - make_interval(secs => :idle_s)"
    f"  ORDER BY checked_at LIMIT :limit FOR UPDATE SKIP LOCKED) RETURNING {COLUMNS}"
)
# The key is compared with '' for the planner: unless it knows that, the index of the kept ones is none for it.
_STILL_USED = sa.text(
    "SELECT 1 FROM deployments WHERE artifact_key = :key AND artifact_key <> '' AND NOT artifact_expired LIMIT 1"
)


class PostgresStore:
    """The stored deployments. `wakes` are called after every commit that concerns them."""

    def __init__(self, database: Database, outbox: Outbox, *, terms: Terms, limits: Limits, wakes: Wakes) -> None:
        self._database = database
        self._outbox = outbox
        self._terms = terms
        self._limits = limits
        self._wakes = wakes
        self._retention = Retention()

    @asynccontextmanager
    async def work(self, tx: Transaction) -> AsyncIterator[PostgresWork]:
        """The stored deployments within somebody else's transaction: a consumer's."""
        work = PostgresWork(tx, self._outbox, terms=self._terms, limits=self._limits, wakes=self._wakes)
        yield work
        await work.complete()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[PostgresWork]:
        async with self._database.transaction() as tx, self.work(tx) as work:
            yield work

    async def set_budget(self, budget: Resources) -> None:
        """Takes over the configured budget; what is reserved already stays reserved."""
        async with self._database.transaction() as tx:
            names = ("cpu", "memory", "cluster_cpu", "cluster_memory")
            await tx.execute(_SET_BUDGET, dict(zip(names, budget.amounts, strict=True)))

    async def record(self, deployment_id: str) -> Record | None:
        row = await self._database.one_or_none(sa.text(BY_ID), {"id": deployment_id})
        return rows.record(row) if row else None

    async def history(self, deployment_id: str) -> History | None:
        row = await self._database.one_or_none(_HISTORY, {"id": deployment_id})
        return rows.history(row) if row else None

    async def page(
        self, project_id: str, *, environment: str, states: Sequence[State], number: int, before: int, limit: int
    ) -> Sequence[Record]:
        filters = [
            ("environment = :environment", "environment", environment),
            ("state = ANY(:states)", "states", [state.value for state in states]),
            ("number = :number", "number", number),
            ("number < :before", "before", before),
        ]
        used = [(clause, name, value) for clause, name, value in filters if value]
        where = " AND ".join(["project_id = :project_id", *(clause for clause, _, _ in used)])
        query = f"SELECT {COLUMNS} FROM deployments WHERE {where} ORDER BY number DESC LIMIT :limit"
        values = {"project_id": project_id, "limit": limit} | {name: value for _, name, value in used}
        return [rows.record(row) for row in await self._database.all(sa.text(query), values)]

    async def serving(self, project_id: str, environment: str) -> Record | None:
        row = await self._database.one_or_none(sa.text(PRODUCTION), {"project_id": project_id, "environment": environment})
        return rows.record(row) if row else None

    async def queue(self) -> Queue:
        async with self._database.transaction(reading=True) as tx:
            found, turns = await admission.entries(tx, self._terms)
            budget = await admission.budget(tx, lock=False)
            now = await tx.scalar(sa.text("SELECT clock_timestamp()"))
        return Queue({record.deployment.id: record for record, _ in found}, [entry for _, entry in found], budget, turns, now)

    async def is_waited(self) -> bool:
        return await self._database.one_or_none(_WAITING) is not None

    async def claim(self, *, limit: int, lease_s: float) -> Sequence[Held]:
        async with self._database.transaction() as tx:
            claimed = await tx.all(_CLAIM, {"limit": limit, "lease_s": lease_s})
            if not claimed:
                return []
            tasks = [rows.task(row) for row in sorted(claimed, key=lambda row: int(row["id"]))]
            # The fences before the records: whoever has the higher one has read what is at least as new.
            taken = await routes.taken(tx, routes.routed(tasks))
            found = await tx.all(_BY_IDS, {"ids": [task.deployment_id for task in tasks]})
        records = {str(row["id"]): rows.record(row) for row in found}
        return routes.held(tasks, records, taken)

    async def renew(self, tasks: Sequence[Task], lease_s: float) -> None:
        async with self._database.transaction() as tx:
            held = {"id": [task.id for task in tasks], "token": [task.token for task in tasks], "lease_s": lease_s}
            await tx.execute(_RENEW, held)

    async def put_off(self, task: Task, delay_s: float) -> None:
        async with self._database.transaction() as tx:
            await tx.execute(_PUT_OFF, {"id": task.id, "token": task.token, "delay_s": delay_s})

    async def overdue(self) -> Sequence[tuple[str, float]]:
        return [(str(row["id"]), row["limit_s"]) for row in await self._database.all(_OVERDUE)]

    async def unchecked(self, *, idle_s: float, limit: int) -> Sequence[Deployment]:
        async with self._database.transaction() as tx:
            return [rows.deployment(row) for row in await tx.all(_UNCHECKED, {"idle_s": idle_s, "limit": limit})]

    async def expire_releases(self, keep: int) -> int:
        async with self._database.transaction() as tx:
            expired = [rows.record(row) for row in await self._retention.expire(tx, keep)]
            for record in expired:
                with working_on(record.deployment.context):
                    await self._emit_expired(tx, record)
        return len(expired)

    async def _emit_expired(self, tx: Transaction, record: Record) -> None:
        now = record.deployment
        artifact = types_pb2.Artifact.FromString(now.artifact)
        used = await tx.scalar(_STILL_USED, {"key": artifact.object_key})
        event = events_pb2.ReleaseExpired(
            deployment_id=now.id, project_id=now.project_id, team_id=now.team_id, artifact=artifact, artifact_unused=not used
        )
        await self._outbox.emit(tx, DEPLOYMENT_PROGRESS, event, tenant_id=now.team_id)
