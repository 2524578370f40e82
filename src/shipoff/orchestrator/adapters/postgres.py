"""The stored deployments on PostgreSQL: ports.Work and ports.Store. Leases and deadlines run on the database's clock."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from shipoff.common.errors import Aborted, PreconditionFailed
from shipoff.common.outbox import Outbox
from shipoff.common.postgres import Database, Transaction
from shipoff.common.streams import DEPLOYMENT_PROGRESS
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.orchestrator import domain, messages
from shipoff.orchestrator.adapters import admission, putting_back, rows
from shipoff.orchestrator.adapters.rows import COLUMNS
from shipoff.orchestrator.admission import Queue, QueueEntry, Terms, Turns, is_waiting
from shipoff.orchestrator.domain import (
    TERMINAL,
    Deployment,
    Instruction,
    NewDeployment,
    Record,
    Reserved,
    Resources,
    Retry,
    State,
    Step,
    Task,
    Used,
)

# Beyond the build's own time limit: fetching a builder, and the way of its last message; likewise for what is started.
_BUILD_SLACK_S = 60.0
_READY_SLACK_S = 30.0


def _sql(text: str) -> sa.TextClause:
    return sa.text(text)


_NUMBER = _sql(
    "INSERT INTO project_numbers (project_id, last) VALUES (:project_id, 1)"
    " ON CONFLICT (project_id) DO UPDATE SET last = project_numbers.last + 1 RETURNING last"
)
_KNOWN = _sql("SELECT 1 FROM deployments WHERE id = :id")
_INSERT = _sql(
    "INSERT INTO deployments (id, project_id, project_name, team_id, environment, number, accepted_at, state, request, branch,"
    " commit, commit_message, trigger, requested_by, origin_id, artifact, artifact_key, plan, static, reason,"
    " queued_limit_s, building_limit_s, provisioning_limit_s, deadline_at)"
    " VALUES (:id, :project_id, :project_name, :team_id, :environment, :number, :accepted_at, 'queued', :request, :branch,"
    " :commit, :commit_message, :trigger, :requested_by, :origin_id, :artifact, :artifact_key, :plan, :static, :reason,"
    " :queued_limit_s, :building_limit_s, :provisioning_limit_s,"
    f" clock_timestamp() + make_interval(secs => :queued_limit_s)) ON CONFLICT (id) DO NOTHING RETURNING {COLUMNS}"
)
_BY_ID = f"SELECT {COLUMNS} FROM deployments WHERE id = :id"
_LOCKED = _sql(f"{_BY_ID} FOR UPDATE")
# For whoever holds the budget: others lock deployments before it, and are not waited for.
_LOCKED_NOW = _sql(f"{_BY_ID} FOR UPDATE SKIP LOCKED")
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
    " slot_cpu_millis = :slot_cpu, slot_memory_bytes = :slot_memory, out_of_memory = :out_of_memory,"
    " awaits_slot = :awaits_slot, replicas = :replicas, slot_at = CASE WHEN :slotted THEN clock_timestamp() ELSE slot_at END,"
    " endpoints = CAST(:endpoints AS jsonb), changed_at = clock_timestamp(), checked_at = clock_timestamp(),"
    " deadline_at = CASE WHEN NOT :moved THEN deadline_at ELSE clock_timestamp() + make_interval(secs => CASE"
    "  WHEN :state = 'queued' OR :awaits_slot THEN queued_limit_s WHEN :state = 'building' THEN building_limit_s"
    "  WHEN :state = 'provisioning' THEN provisioning_limit_s END) END"
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
_SET_BUDGET = _sql(
    "UPDATE budget SET cpu_millis = GREATEST(:cpu, cpu_millis_reserved),"
    " memory_bytes = GREATEST(:memory, memory_bytes_reserved) WHERE (cpu_millis, memory_bytes) <> (:cpu, :memory)"
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
    "SELECT id, CASE WHEN state = 'queued' OR awaits_slot THEN queued_limit_s WHEN state = 'building' THEN building_limit_s"
    " ELSE provisioning_limit_s END AS limit_s FROM deployments"
    " WHERE state IN ('queued', 'building', 'provisioning') AND deadline_at < clock_timestamp() LIMIT 100"
)
_UNCHECKED = _sql(
    "UPDATE deployments SET checked_at = clock_timestamp() WHERE id IN (SELECT id FROM deployments"
    "  WHERE state IN ('building', 'provisioning') AND NOT awaits_slot"
    "  AND checked_at < clock_timestamp() - make_interval(secs => :idle_s)"
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
    """How long a state may last, in seconds, where the project says nothing."""

    queued_s: float
    building_s: float
    provisioning_s: float
    # Not a limit: how long a release has to serve until it counts as well.
    bake_s: float

    def of(self, request: bytes) -> dict[str, float]:
        """By the state's column, with what the project says."""
        configuration = events_pb2.DeploymentRequested.FromString(request).configuration
        build_s, ready_s = configuration.build.timeout_s, configuration.run.ready_timeout_s
        return {
            "queued_limit_s": float(configuration.build.queue_timeout_s or self.queued_s),
            "building_limit_s": float(build_s or self.building_s) + _BUILD_SLACK_S,
            "provisioning_limit_s": max(self.provisioning_s, ready_s + _READY_SLACK_S) if ready_s else self.provisioning_s,
        }


def _artifact_key(artifact: bytes) -> str:
    return types_pb2.Artifact.FromString(artifact).object_key if artifact else ""


class PostgresWork:
    """One transaction."""

    def __init__(self, tx: Transaction, outbox: Outbox, *, terms: Terms, limits: Limits, changed: Callable[[], None]) -> None:
        self._tx = tx
        self._outbox = outbox
        self._terms = terms
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
        }
        values |= self._limits.of(new.request)
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
        # It lasts for as long as that of a state, whether it is one or waits for a larger slot.
        phase = moved or before.awaits_slot is not after.awaits_slot
        changed = asdict(after) | {
            "slot_cpu": after.slot.cpu_millis,
            "slot_memory": after.slot.memory_bytes,
            "slotted": phase and after.state is State.BUILDING,
            "moved": phase,
            "artifact_key": _artifact_key(after.artifact),
            "endpoints": json.dumps([asdict(endpoint) for endpoint in after.endpoints]),
            "was": before.version,
        }
        if not await self._tx.execute(_SAVE, changed):
            raise Aborted(f"deployment {after.id} was changed by somebody else")
        self._tx.after_commit(self._changed)
        if after.state in TERMINAL or (after.awaits_slot and not before.awaits_slot):
            await self._tx.execute(admission.RELEASE, {"id": after.id})
        if moved:
            await self._record(before, after, actor)
        elif after.attempt > before.attempt:
            await self._tx.execute(_RETRY, {"id": after.id, "attempt": after.attempt, "reason": after.reason})

    async def _record(self, before: Deployment, after: Deployment, actor: str) -> None:
        values = {"from_state": before.state, "to_state": after.state, "reason": after.reason, "actor": actor}
        await self._tx.execute(_TRANSITION, {"id": after.id, "version": after.version} | values)
        row = await self._tx.one_or_none(_sql(_BY_ID), {"id": after.id})
        assert row is not None
        if before.state is State.BUILDING and after.state is State.PROVISIONING:
            await admission.swap(self._tx, after.id, admission.app_needs(rows.record(row), self._terms))
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

    async def locked_now(self, deployment_id: str) -> Deployment | None:
        row = await self._tx.one_or_none(_LOCKED_NOW, {"id": deployment_id})
        return rows.deployment(row) if row else None

    async def reserve(self, deployment: Deployment, needs: Resources) -> None:
        await admission.reserve(self._tx, deployment.id, needs)

    async def resize(self, deployment: Deployment, replicas: int) -> None:
        row = await self._tx.one_or_none(_sql(_BY_ID), {"id": deployment.id})
        assert row is not None
        needs = admission.app_needs(rows.record(row), self._terms, replicas=replicas)
        reserved = await admission.budget(self._tx, lock=True)
        held = await admission.held_by(self._tx, deployment.id)
        if not needs.within(held.plus(reserved.free).maximum(held)):
            raise PreconditionFailed(
                f"there is no room for {replicas} instances: they need {needs}, of which {held} are reserved already, and"
                f" {reserved.free} are free",
                field="replicas",
                remedy="scale something else down, or lower run.memory_bytes or run.cpu_millis",
            )
        await self._tx.execute(admission.RELEASE, {"id": deployment.id})
        await admission.reserve(self._tx, deployment.id, needs)

    async def lock_admission(self) -> Reserved:
        return await admission.budget(self._tx, lock=True)

    async def waiting(self) -> Sequence[QueueEntry]:
        return [entry for _, entry in await admission.entries(self._tx, self._terms) if is_waiting(entry)]

    async def turns(self, team_ids: Sequence[str]) -> Turns:
        return await admission.turns(self._tx, team_ids)

    async def take_turn(self, now: Turns, team_id: str) -> None:
        await admission.take_turn(self._tx, now, team_id)

    async def record_usage(self, deployment: Deployment, used: Used, *, succeeded: bool) -> None:
        await admission.record_usage(self._tx, deployment, used, succeeded=succeeded)

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


class PostgresStore:
    """The stored deployments. `changed` is called after every commit that changed one."""

    def __init__(
        self, database: Database, outbox: Outbox, *, terms: Terms, limits: Limits, changed: Callable[[], None]
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._terms = terms
        self._limits = limits
        self._changed = changed

    def work(self, tx: Transaction) -> PostgresWork:
        """The stored deployments within somebody else's transaction: a consumer's."""
        return PostgresWork(tx, self._outbox, terms=self._terms, limits=self._limits, changed=self._changed)

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

    async def queue(self) -> Queue:
        async with self._database.transaction() as tx:
            found = await admission.entries(tx, self._terms)
            budget = await admission.budget(tx, lock=False)
            turns = await admission.turns(tx, sorted({entry.deployment.team_id for _, entry in found}))
            now = await tx.scalar(_sql("SELECT clock_timestamp()"))
        return Queue({record.deployment.id: record for record, _ in found}, [entry for _, entry in found], budget, turns, now)

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
