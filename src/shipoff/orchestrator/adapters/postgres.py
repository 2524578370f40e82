"""The stored deployments on PostgreSQL: ports.Work and ports.Store. Leases and deadlines run on the database's clock."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from shipoff.common.errors import Aborted
from shipoff.common.outbox import Outbox
from shipoff.common.postgres import Database, Transaction
from shipoff.common.streams import DEPLOYMENT_PROGRESS
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.orchestrator import domain, messages
from shipoff.orchestrator.adapters import putting_back, rows
from shipoff.orchestrator.adapters.rows import COLUMNS
from shipoff.orchestrator.domain import (
    Deployment,
    Instruction,
    NewDeployment,
    QueueEntry,
    Record,
    Reserved,
    Resources,
    Retry,
    State,
    Step,
    Task,
)

_WAITING_SEEN = 500


def _sql(text: str) -> sa.TextClause:
    return sa.text(text)


_NUMBER = _sql(
    "INSERT INTO project_numbers (project_id, last) VALUES (:project_id, 1)"
    " ON CONFLICT (project_id) DO UPDATE SET last = project_numbers.last + 1 RETURNING last"
)
_KNOWN = _sql("SELECT 1 FROM deployments WHERE id = :id")
_INSERT = _sql(
    "INSERT INTO deployments (id, project_id, project_name, team_id, environment, number, accepted_at, state, request, branch,"
    " commit, commit_message, trigger, requested_by, origin_id, artifact, artifact_key, plan, static, deadline_at)"
    " VALUES (:id, :project_id, :project_name, :team_id, :environment, :number, :accepted_at, 'queued', :request, :branch,"
    " :commit, :commit_message, :trigger, :requested_by, :origin_id, :artifact, :artifact_key, :plan, :static,"
    f" clock_timestamp() + make_interval(secs => :limit_s)) ON CONFLICT (id) DO NOTHING RETURNING {COLUMNS}"
)
_BY_ID = f"SELECT {COLUMNS} FROM deployments WHERE id = :id"
_LOCKED = _sql(f"{_BY_ID} FOR UPDATE")
_PLACE = f"SELECT {COLUMNS} FROM deployments WHERE project_id = :project_id AND environment = :environment"
_PRODUCTION = f"{_PLACE} AND state = 'production'"
_OLDER = _sql(
    f"{_PLACE} AND state IN ('queued', 'building') AND (accepted_at, id) < (:accepted_at, CAST(:id AS uuid))"
    " ORDER BY number FOR UPDATE"
)
_NEWER = _sql(
    "SELECT max(number) FROM deployments WHERE project_id = :project_id AND environment = :environment"
    " AND (accepted_at, id) > (:accepted_at, CAST(:id AS uuid)) AND state <> 'failed'"
)
_OF_PROJECT = _sql(
    f"SELECT {COLUMNS} FROM deployments WHERE project_id = :project_id"
    " AND state IN ('queued', 'building', 'provisioning', 'production') ORDER BY number FOR UPDATE"
)
_SAVE = _sql(
    "UPDATE deployments SET state = :state, version = :version, attempt = :attempt, static = :static, artifact = :artifact,"
    " artifact_key = :artifact_key, plan = :plan, commit = :commit, reason = :reason, broke = :broke, revision = :revision,"
    " endpoints = CAST(:endpoints AS jsonb), changed_at = clock_timestamp(), checked_at = clock_timestamp(),"
    " deadline_at = CASE WHEN CAST(:limit_s AS double precision) IS NULL THEN deadline_at"
    "  WHEN :limit_s = 0 THEN NULL ELSE clock_timestamp() + make_interval(secs => :limit_s) END"
    " WHERE id = :id AND version = :was"
)
_TRANSITION = _sql(
    "INSERT INTO transitions (deployment_id, version, from_state, to_state, reason, actor)"
    " VALUES (:id, :version, :from_state, :to_state, :reason, :actor)"
)
_RETRY = _sql("INSERT INTO retries (deployment_id, attempt, reason) VALUES (:id, :attempt, :reason)")
_RETRIES = _sql("SELECT attempt, reason, time FROM retries WHERE deployment_id = :id ORDER BY attempt")
_INSTRUCT = _sql(
    "INSERT INTO instructions (deployment_id, instruction, attempt)"
    " SELECT :id, :instruction, :attempt WHERE NOT EXISTS (SELECT 1 FROM instructions"
    "  WHERE deployment_id = :id AND instruction = :instruction AND attempt = :attempt AND lease_until IS NULL)"
)
_FINISH = _sql("DELETE FROM instructions WHERE id = :id AND lease_token = :token")
_RESERVE = _sql(
    "WITH held AS (INSERT INTO reservations (deployment_id, cpu_millis, memory_bytes) VALUES (:id, :cpu, :memory))"
    " UPDATE budget SET cpu_millis_reserved = cpu_millis_reserved + :cpu,"
    " memory_bytes_reserved = memory_bytes_reserved + :memory"
)
_RELEASE = _sql(
    "WITH freed AS (DELETE FROM reservations WHERE deployment_id = :id RETURNING cpu_millis, memory_bytes)"
    " UPDATE budget SET cpu_millis_reserved = cpu_millis_reserved - freed.cpu_millis,"
    " memory_bytes_reserved = memory_bytes_reserved - freed.memory_bytes FROM freed"
)
_BUDGET = "SELECT cpu_millis, memory_bytes, cpu_millis_reserved, memory_bytes_reserved FROM budget"
_SET_BUDGET = _sql(
    "UPDATE budget SET cpu_millis = GREATEST(:cpu, cpu_millis_reserved),"
    " memory_bytes = GREATEST(:memory, memory_bytes_reserved) WHERE (cpu_millis, memory_bytes) <> (:cpu, :memory)"
)
_QUEUED = (
    f"SELECT {COLUMNS}, count(*) FILTER (WHERE state = 'building') OVER (PARTITION BY team_id) AS team_running,"
    " count(*) FILTER (WHERE state = 'building') OVER (PARTITION BY project_id, environment) AS busy"
    " FROM deployments WHERE state IN ('queued', 'building') ORDER BY accepted_at, id"
)
_FENCE = _sql(
    "INSERT INTO environments (project_id, environment, floor, generation) VALUES (:project_id, :environment, :floor, 1)"
    " ON CONFLICT (project_id, environment) DO UPDATE SET generation = environments.generation + 1,"
    " floor = GREATEST(environments.floor, :floor) RETURNING floor, generation"
)
_STEPS = _sql("SELECT from_state, to_state, reason, actor, time FROM transitions WHERE deployment_id = :id ORDER BY version")
_CLAIM = _sql(
    "UPDATE instructions SET lease_token = lease_token + 1, tries = tries + 1,"
    " lease_until = clock_timestamp() + make_interval(secs => :lease_s)"
    " WHERE id IN (SELECT id FROM instructions WHERE due_at <= clock_timestamp()"
    "  AND (lease_until IS NULL OR lease_until < clock_timestamp()) ORDER BY due_at, id LIMIT :limit FOR UPDATE SKIP LOCKED)"
    " RETURNING id, lease_token, deployment_id, instruction, attempt, tries"
)
_RENEW = _sql(
    "UPDATE instructions SET lease_until = clock_timestamp() + make_interval(secs => :lease_s)"
    " WHERE id = :id AND lease_token = :token"
)
_PUT_OFF = _sql(
    "UPDATE instructions SET lease_until = NULL, due_at = clock_timestamp() + make_interval(secs => :delay_s)"
    " WHERE id = :id AND lease_token = :token"
)
_OVERDUE = _sql(
    "SELECT id, extract(epoch FROM deadline_at - changed_at)::float AS limit_s FROM deployments"
    " WHERE state IN ('queued', 'building', 'provisioning') AND deadline_at < clock_timestamp() LIMIT 100"
)
_UNCHECKED = _sql(
    "UPDATE deployments SET checked_at = clock_timestamp() WHERE id IN (SELECT id FROM deployments"
    "  WHERE state IN ('building', 'provisioning') AND checked_at < clock_timestamp() - make_interval(secs => :idle_s)"
    f"  ORDER BY checked_at LIMIT :limit FOR UPDATE SKIP LOCKED) RETURNING {COLUMNS}"
)
_EXPIRE = _sql(
    "UPDATE deployments SET artifact_expired = true WHERE id IN (SELECT id FROM (SELECT id, state, artifact_expired,"
    "  row_number() OVER (PARTITION BY project_id, environment ORDER BY accepted_at DESC, id DESC) AS place FROM deployments"
    "  WHERE artifact_key <> '' AND NOT artifact_expired) AS kept"
    f"  WHERE place > :keep AND state IN ('failed', 'inactive') LIMIT 100) RETURNING {COLUMNS}"
)
_STILL_USED = _sql("SELECT 1 FROM deployments WHERE artifact_key = :key AND NOT artifact_expired LIMIT 1")


@dataclass(frozen=True)
class Limits:
    """How long a state may last, in seconds."""

    queued_s: float
    building_s: float
    provisioning_s: float
    # Not a limit: how long a release has to serve until it counts as well.
    bake_s: float

    def of(self, state: State) -> float:
        """Zero: it may rest there."""
        limits = {State.QUEUED: self.queued_s, State.BUILDING: self.building_s, State.PROVISIONING: self.provisioning_s}
        return limits.get(state, 0)


def _artifact_key(artifact: bytes) -> str:
    return types_pb2.Artifact.FromString(artifact).object_key if artifact else ""


class PostgresWork:
    """One transaction."""

    def __init__(self, tx: Transaction, outbox: Outbox, *, limits: Limits, changed: Callable[[], None]) -> None:
        self._tx = tx
        self._outbox = outbox
        self._limits = limits
        self._changed = changed

    async def insert(self, new: NewDeployment) -> Deployment | None:
        if await self._tx.scalar(_KNOWN, {"id": new.id}):
            return None
        number = await self._tx.scalar(_NUMBER, {"project_id": new.project_id})
        values = asdict(new) | {
            "number": number,
            "origin_id": new.origin_id or None,
            "artifact_key": _artifact_key(new.artifact),
            "limit_s": self._limits.queued_s,
        }
        row = await self._tx.one_or_none(_INSERT, values)
        if row is None:
            # Another process was told of it at the same moment; its number is passed over.
            return None
        self._tx.after_commit(self._changed)
        return rows.deployment(row)

    async def locked(self, deployment_id: str) -> Deployment | None:
        row = await self._tx.one_or_none(_LOCKED, {"id": deployment_id})
        return rows.deployment(row) if row else None

    async def production(self, project_id: str, environment: str) -> Deployment | None:
        place = {"project_id": project_id, "environment": environment}
        row = await self._tx.one_or_none(_sql(f"{_PRODUCTION} FOR UPDATE"), place)
        return rows.deployment(row) if row else None

    async def older_on_the_way(self, deployment: Deployment) -> Sequence[Deployment]:
        return [rows.deployment(row) for row in await self._tx.all(_OLDER, _place(deployment))]

    async def newer_number(self, deployment: Deployment) -> int | None:
        number: int | None = await self._tx.scalar(_NEWER, _place(deployment))
        return number

    async def baked(self, deployment: Deployment) -> bool:
        return await putting_back.baked(self._tx, deployment, self._limits.bake_s)

    async def newer_under_way(self, deployment: Deployment) -> bool:
        return await putting_back.newer_under_way(self._tx, deployment)

    async def broken(self, project_id: str, environment: str) -> Deployment | None:
        return await putting_back.broken(self._tx, project_id, environment)

    async def put_back(self, deployment: Deployment) -> tuple[int, NewDeployment] | None:
        return await putting_back.release_before(self._tx, deployment, self._limits.bake_s)

    async def lock_numbers(self, project_id: str) -> None:
        await putting_back.lock_numbers(self._tx, project_id)

    async def of_project(self, project_id: str) -> Sequence[Deployment]:
        return [rows.deployment(row) for row in await self._tx.all(_OF_PROJECT, {"project_id": project_id})]

    async def save(self, before: Deployment, after: Deployment, *, actor: str) -> None:
        moved = before.state is not after.state
        changed = asdict(after) | {
            "artifact_key": _artifact_key(after.artifact),
            "endpoints": json.dumps([asdict(endpoint) for endpoint in after.endpoints]),
            "limit_s": float(self._limits.of(after.state)) if moved else None,
            "was": before.version,
        }
        if not await self._tx.execute(_SAVE, changed):
            raise Aborted(f"deployment {after.id} was changed by somebody else")
        self._tx.after_commit(self._changed)
        if moved:
            await self._record(before, after, actor)
        elif after.attempt > before.attempt:
            await self._tx.execute(_RETRY, {"id": after.id, "attempt": after.attempt, "reason": after.reason})

    async def _record(self, before: Deployment, after: Deployment, actor: str) -> None:
        values = {"from_state": before.state, "to_state": after.state, "reason": after.reason, "actor": actor}
        await self._tx.execute(_TRANSITION, {"id": after.id, "version": after.version} | values)
        if before.state is State.BUILDING:
            await self._tx.execute(_RELEASE, {"id": after.id})
        row = await self._tx.one_or_none(_sql(_BY_ID), {"id": after.id})
        assert row is not None
        await self._outbox.emit(
            self._tx, DEPLOYMENT_PROGRESS, messages.state_changed(rows.record(row), before), tenant_id=after.team_id
        )

    async def instruct(self, deployment: Deployment, instruction: Instruction) -> None:
        values = {"id": deployment.id, "instruction": instruction, "attempt": deployment.attempt}
        await self._tx.execute(_INSTRUCT, values)
        self._tx.after_commit(self._changed)

    async def finish(self, task: Task) -> None:
        if not await self._tx.execute(_FINISH, {"id": task.id, "token": task.token}):
            raise Aborted(f"instruction {task.id} is held by somebody else")

    async def reserve(self, deployment: Deployment, needs: Resources) -> None:
        await self._tx.execute(_RESERVE, {"id": deployment.id, "cpu": needs.cpu_millis, "memory": needs.memory_bytes})

    async def lock_admission(self) -> Reserved:
        row = await self._tx.one_or_none(_sql(f"{_BUDGET} FOR UPDATE"))
        assert row is not None
        return _reserved(row)

    async def waiting(self) -> Sequence[QueueEntry]:
        entries = [_entry(row) for row in await self._tx.all(_sql(f"{_QUEUED} LIMIT {_WAITING_SEEN}"))]
        return [entry for entry in entries if entry.deployment.state is State.QUEUED and not entry.deployment.artifact]

    async def next_fence(self, deployment: Deployment, *, call_off: bool = False) -> int:
        values = _place(deployment) | {"floor": deployment.number if call_off else 0}
        row = await self._tx.one_or_none(_FENCE, values)
        assert row is not None
        return domain.fence(deployment.number, row["floor"], row["generation"])


def _place(deployment: Deployment) -> dict[str, object]:
    return {
        "id": deployment.id,
        "project_id": deployment.project_id,
        "environment": deployment.environment,
        "accepted_at": deployment.accepted_at,
    }


def _reserved(row: sa.RowMapping) -> Reserved:
    return Reserved(
        Resources(row["cpu_millis"], row["memory_bytes"]),
        Resources(row["cpu_millis_reserved"], row["memory_bytes_reserved"]),
    )


def _entry(row: sa.RowMapping) -> QueueEntry:
    return QueueEntry(rows.deployment(row), Resources(0, 0), team_running=row["team_running"], environment_busy=row["busy"] > 0)


class PostgresStore:
    """The stored deployments. `changed` is called after every commit that changed one."""

    def __init__(self, database: Database, outbox: Outbox, *, limits: Limits, changed: Callable[[], None]) -> None:
        self._database = database
        self._outbox = outbox
        self._limits = limits
        self._changed = changed

    def work(self, tx: Transaction) -> PostgresWork:
        """The stored deployments within somebody else's transaction: a consumer's."""
        return PostgresWork(tx, self._outbox, limits=self._limits, changed=self._changed)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[PostgresWork]:
        async with self._database.transaction() as tx:
            yield self.work(tx)

    async def set_budget(self, budget: Resources) -> None:
        """Takes over the configured budget; what is reserved already stays reserved."""
        async with self._database.transaction() as tx:
            await tx.execute(_SET_BUDGET, {"cpu": budget.cpu_millis, "memory": budget.memory_bytes})

    async def record(self, deployment_id: str) -> Record | None:
        row = await self._database.one_or_none(_sql(_BY_ID), {"id": deployment_id})
        return rows.record(row) if row else None

    async def steps(self, deployment_id: str) -> Sequence[Step]:
        return [rows.step(row) for row in await self._database.all(_STEPS, {"id": deployment_id})]

    async def retries(self, deployment_id: str) -> Sequence[Retry]:
        return [rows.retry(row) for row in await self._database.all(_RETRIES, {"id": deployment_id})]

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
        return [rows.record(row) for row in await self._database.all(_sql(query), values)]

    async def serving(self, project_id: str, environment: str) -> Record | None:
        row = await self._database.one_or_none(_sql(_PRODUCTION), {"project_id": project_id, "environment": environment})
        return rows.record(row) if row else None

    async def queue(self) -> tuple[Sequence[tuple[Record, QueueEntry]], Reserved]:
        async with self._database.transaction() as tx:
            entries = [(rows.record(row), _entry(row)) for row in await tx.all(_sql(_QUEUED))]
            budget = await tx.one_or_none(_sql(_BUDGET))
        assert budget is not None
        return entries, _reserved(budget)

    async def claim(self, *, limit: int, lease_s: float) -> Sequence[Task]:
        async with self._database.transaction() as tx:
            claimed = await tx.all(_CLAIM, {"limit": limit, "lease_s": lease_s})
        return [_task(row) for row in sorted(claimed, key=lambda row: int(row["id"]))]

    async def renew(self, task: Task, lease_s: float) -> bool:
        async with self._database.transaction() as tx:
            return await tx.execute(_RENEW, {"id": task.id, "token": task.token, "lease_s": lease_s}) > 0

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
            expired = [rows.record(row) for row in await tx.all(_EXPIRE, {"keep": keep})]
            for record in expired:
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


def _task(row: sa.RowMapping) -> Task:
    return Task(
        id=row["id"],
        token=row["lease_token"],
        deployment_id=str(row["deployment_id"]),
        instruction=Instruction(row["instruction"]),
        attempt=row["attempt"],
        tries=row["tries"],
    )
