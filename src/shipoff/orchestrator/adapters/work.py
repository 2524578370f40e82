"""One transaction over the stored deployments on PostgreSQL: ports.Work. Opened by PostgresStore and by the consumers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from shipoff.common.errors import Aborted, PreconditionFailed
from shipoff.common.outbox import Outbox
from shipoff.common.postgres import Transaction
from shipoff.common.streams import DEPLOYMENT_PROGRESS
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.orchestrator import messages
from shipoff.orchestrator.adapters import admission, putting_back, rows
from shipoff.orchestrator.adapters.rows import COLUMNS
from shipoff.orchestrator.admission import QueueEntry, Terms, Turns, is_waiting
from shipoff.orchestrator.domain import TERMINAL, Deployment, Instruction, Reserved, Resources, State
from shipoff.orchestrator.records import NewDeployment, Task, Used, fence

# Beyond the build's own time limit: fetching a builder, and the way of its last message; likewise for what is started.
_BUILD_SLACK_S = 60.0
_READY_SLACK_S = 30.0


_NUMBER = sa.text(
    "INSERT INTO project_numbers (project_id, last) VALUES (:project_id, 1)"
    " ON CONFLICT (project_id) DO UPDATE SET last = project_numbers.last + 1 RETURNING last"
)
_KNOWN = sa.text("SELECT 1 FROM deployments WHERE id = :id")
_INSERT = sa.text(
    "INSERT INTO deployments (id, project_id, project_name, team_id, environment, number, accepted_at, state, request, branch,"
    " commit, commit_message, trigger, requested_by, origin_id, artifact, artifact_key, plan, static, reason,"
    " queued_limit_s, building_limit_s, provisioning_limit_s, deadline_at)"
    " VALUES (:id, :project_id, :project_name, :team_id, :environment, :number, :accepted_at, 'queued', :request, :branch,"
    " :commit, :commit_message, :trigger, :requested_by, :origin_id, :artifact, :artifact_key, :plan, :static, :reason,"
    " :queued_limit_s, :building_limit_s, :provisioning_limit_s,"
    f" clock_timestamp() + make_interval(secs => :queued_limit_s)) ON CONFLICT (id) DO NOTHING RETURNING {COLUMNS}"
)
BY_ID = f"SELECT {COLUMNS} FROM deployments WHERE id = :id"
_LOCKED = sa.text(f"{BY_ID} FOR UPDATE")
# For whoever holds the budget: others lock deployments before it, and are not waited for.
_LOCKED_NOW = sa.text(f"{BY_ID} FOR UPDATE SKIP LOCKED")
_PLACE = f"SELECT {COLUMNS} FROM deployments WHERE project_id = :project_id AND environment = :environment"
PRODUCTION = f"{_PLACE} AND state = 'production'"
_OLDER = sa.text(
    f"{_PLACE} AND state IN ('queued', 'building') AND (accepted_at, id) < (:accepted_at, CAST(:id AS uuid))"
    " ORDER BY number FOR UPDATE"
)
_NEWER = sa.text(
    "SELECT max(number) FROM deployments WHERE project_id = :project_id AND environment = :environment"
    " AND (accepted_at, id) > (:accepted_at, CAST(:id AS uuid)) AND state <> 'failed'"
)
_OF_PROJECT = sa.text(
    f"SELECT {COLUMNS} FROM deployments WHERE project_id = :project_id"
    " AND state IN ('queued', 'building', 'provisioning', 'production') ORDER BY number FOR UPDATE"
)
_SAVE = sa.text(
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
_TRANSITION = sa.text(
    "INSERT INTO transitions (deployment_id, version, from_state, to_state, reason, actor)"
    " VALUES (:id, :version, :from_state, :to_state, :reason, :actor)"
)
_RETRY = sa.text("INSERT INTO retries (deployment_id, attempt, reason) VALUES (:id, :attempt, :reason)")
_INSTRUCT = sa.text(
    "INSERT INTO instructions (deployment_id, instruction, attempt)"
    " SELECT :id, :instruction, :attempt WHERE NOT EXISTS (SELECT 1 FROM instructions"
    "  WHERE deployment_id = :id AND instruction = :instruction AND attempt = :attempt AND lease_until IS NULL)"
)
_FINISH = sa.text("DELETE FROM instructions WHERE id = :id AND lease_token = :token")
_FENCE = sa.text(
    "INSERT INTO environments (project_id, environment, floor, generation) VALUES (:project_id, :environment, :floor, 1)"
    " ON CONFLICT (project_id, environment) DO UPDATE SET generation = environments.generation + 1,"
    " floor = GREATEST(environments.floor, :floor) RETURNING floor, generation"
)


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
        row = await self._tx.one_or_none(sa.text(f"{PRODUCTION} FOR UPDATE"), place)
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
        row = await self._tx.one_or_none(sa.text(BY_ID), {"id": after.id})
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
        await admission.reserve(self._tx, deployment.id, needs, lasting=bool(deployment.artifact))

    async def resize(self, deployment: Deployment, replicas: int) -> None:
        row = await self._tx.one_or_none(sa.text(BY_ID), {"id": deployment.id})
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
        await admission.reserve(self._tx, deployment.id, needs, lasting=True)

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
        return fence(deployment.number, row["floor"], row["generation"])


def _place(deployment: Deployment) -> dict[str, object]:
    return {
        "id": deployment.id,
        "project_id": deployment.project_id,
        "environment": deployment.environment,
        "accepted_at": deployment.accepted_at,
    }
