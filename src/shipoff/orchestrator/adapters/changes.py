"""What a transaction has decided, written at its end by one statement a table, however many deployments it is about.

Called by PostgresWork, which has every deployment in it locked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime

import sqlalchemy as sa

from shipoff.common.errors import Aborted
from shipoff.common.outbox import Outbox
from shipoff.common.postgres import Transaction, arrays, unnested
from shipoff.common.streams import DEPLOYMENT_PROGRESS, envelope
from shipoff.common.telemetry import Context, current, working_on
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.orchestrator import messages
from shipoff.orchestrator.adapters.rows import TASK, task
from shipoff.orchestrator.domain import Deployment, Instruction, State
from shipoff.orchestrator.records import Record, Task

_CHANGED = {
    "id": "uuid",
    "was": "bigint",
    "state": "text",
    "version": "bigint",
    "attempt": "bigint",
    "static": "boolean",
    "artifact": "bytea",
    "artifact_key": "text",
    "plan": "bytea",
    "commit": "text",
    "reason": "text",
    "broke": "text",
    "revision": "bigint",
    "slot_cpu_millis": "integer",
    "slot_memory_bytes": "bigint",
    "out_of_memory": "text",
    "awaits_slot": "boolean",
    "replicas": "integer",
    "paused": "boolean",
    "endpoints": "text",
    "slotted": "boolean",
    "phase": "boolean",
    "releases": "boolean",
}
_TAKEN_OVER = [name for name in _CHANGED if name not in ("id", "was", "endpoints", "slotted", "phase", "releases")]
_SAVE = sa.text(
    f"UPDATE deployments AS d SET {', '.join(f'{name} = given.{name}' for name in _TAKEN_OVER)},"
    " endpoints = CAST(given.endpoints AS jsonb), changed_at = clock_timestamp(), checked_at = clock_timestamp(),"
    " slot_at = CASE WHEN given.slotted THEN clock_timestamp() ELSE slot_at END,"
    " deadline_at = CASE WHEN NOT given.phase THEN deadline_at ELSE clock_timestamp() + make_interval(secs => CASE"
    "  WHEN given.state = 'queued' OR given.awaits_slot THEN queued_limit_s"
    "  WHEN given.state = 'building' THEN building_limit_s WHEN given.state = 'provisioning' THEN provisioning_limit_s"
    "  + CASE WHEN given.releases THEN releasing_limit_s ELSE 0 END END) END,"
    " provisioning_limit_s = provisioning_limit_s + CASE WHEN given.releases THEN releasing_limit_s ELSE 0 END"
    f" FROM {unnested(_CHANGED)} WHERE d.id = given.id AND d.version = given.was RETURNING d.id, d.changed_at"
)
_MOVED = {"id": "uuid", "version": "bigint", "from_state": "text", "to_state": "text", "reason": "text", "actor": "text"}
_TRANSITIONS = sa.text(
    "INSERT INTO transitions (deployment_id, version, from_state, to_state, reason, actor)"
    f" SELECT id, version, from_state, to_state, reason, actor FROM {unnested(_MOVED)}"
)
_TRIED = {"id": "uuid", "attempt": "bigint", "reason": "text"}
_RETRIES = sa.text(f"INSERT INTO retries (deployment_id, attempt, reason) SELECT id, attempt, reason FROM {unnested(_TRIED)}")
_INSTRUCTED = {"id": "uuid", "instruction": "text", "attempt": "bigint", "tries": "integer"}
# Unless the same is waiting already. With a first try it is this process's from the beginning.
_INSTRUCT = sa.text(
    "INSERT INTO instructions (deployment_id, instruction, attempt, tries, lease_token, lease_until)"
    " SELECT id, instruction, attempt, tries, tries, CASE WHEN tries > 0 THEN clock_timestamp()"
    f"  + make_interval(secs => :lease_s) END FROM {unnested(_INSTRUCTED)}"
    " WHERE NOT EXISTS (SELECT 1 FROM instructions AS waiting"
    "  WHERE waiting.deployment_id = given.id AND waiting.instruction = given.instruction AND waiting.attempt = given.attempt"
    f"  AND waiting.lease_until IS NULL) RETURNING {', '.join(TASK)}"
)
# What leads a deployment on: whoever decides on it goes on with it, if there is room.
_AT_ONCE = frozenset({Instruction.START_BUILD, Instruction.PROVISION, Instruction.SWITCH_ROUTE})
# The states that the database allows one deployment of an environment to be in.
_ALONE = (State.BUILDING, State.PRODUCTION)


@dataclass(frozen=True)
class _Change:
    """A deployment as it is stored and as it shall be."""

    stored: Deployment
    after: Deployment
    # A time limit begins anew; its build has just been given its slot.
    phase: bool = False
    slotted: bool = False

    def row(self) -> dict[str, object]:
        """For `_SAVE`."""
        after = self.after
        return {name: getattr(after, name, None) for name in _CHANGED} | {
            "was": self.stored.version,
            "artifact_key": artifact_key(after.artifact),
            "slot_cpu_millis": after.slot.cpu_millis,
            "slot_memory_bytes": after.slot.memory_bytes,
            "endpoints": json.dumps([asdict(endpoint) for endpoint in after.endpoints]),
            "slotted": self.slotted,
            "phase": self.phase,
            "releases": self.phase and after.state is State.PROVISIONING and _has_release_command(after.plan),
        }


@dataclass(frozen=True)
class _Move:
    """From one state to another, with whose work it was."""

    before: Deployment
    after: Record
    actor: str
    context: Context

    def row(self) -> dict[str, object]:
        """For `_TRANSITIONS`."""
        now = self.after.deployment
        moved = {"id": now.id, "version": now.version, "from_state": self.before.state, "to_state": now.state}
        return moved | {"reason": now.reason, "actor": self.actor}


def _has_release_command(plan: bytes) -> bool:
    return any(process.name == "release" for process in types_pb2.Plan.FromString(plan).processes)


def artifact_key(artifact: bytes) -> str:
    """Where the artifact lies; empty for none."""
    return types_pb2.Artifact.FromString(artifact).object_key if artifact else ""


@dataclass
class Changes:
    """What has been decided and is not written yet."""

    _changed: dict[str, _Change] = field(default_factory=dict)
    _moves: list[_Move] = field(default_factory=list)
    _retries: list[dict[str, object]] = field(default_factory=list)
    # A dict for its order and its keys: the same is instructed once.
    _instructions: dict[tuple[str, Instruction, int], None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self._changed or self._instructions)

    def save(self, before: Deployment, after: Record, *, actor: str) -> None:
        """A decision on a deployment that may have been decided on before in this transaction."""
        now = after.deployment
        moved = before.state is not now.state
        # It lasts for as long as that of a state, whether it is one or waits for a larger slot.
        phase = moved or before.awaits_slot is not now.awaits_slot
        earlier = self._changed.get(now.id, _Change(before, before))
        slotted = phase and now.state is State.BUILDING
        self._changed[now.id] = _Change(earlier.stored, now, phase or earlier.phase, slotted or earlier.slotted)
        if moved:
            self._moves.append(_Move(before, after, actor, _ids(now)))
        elif now.attempt > before.attempt:
            self._retries.append({"id": now.id, "attempt": now.attempt, "reason": now.reason})

    def instruct(self, deployment: Deployment, instruction: Instruction) -> None:
        """Has something done about it."""
        self._instructions[deployment.id, instruction, deployment.attempt] = None

    async def write(self, tx: Transaction, outbox: Outbox, *, room: int, lease_s: float) -> tuple[list[Task], bool]:
        """Writes everything. Raises Aborted when somebody else has changed one of them.

        The instructions that are this process's already, up to `room`, and whether there are others.
        """
        times = await self._write_deployments(tx)
        if self._moves:
            await tx.execute(_TRANSITIONS, arrays(_MOVED, [move.row() for move in self._moves]))
        if self._retries:
            await tx.execute(_RETRIES, arrays(_TRIED, self._retries))
        tasks = await self._write_instructions(tx, room, lease_s) if self._instructions else []
        if self._moves:
            await outbox.emit_all(tx, DEPLOYMENT_PROGRESS, list(_news(self._moves, times)))
        return [task for task in tasks if task.tries], any(not task.tries for task in tasks)

    async def _write_instructions(self, tx: Transaction, room: int, lease_s: float) -> list[Task]:
        rows = []
        for deployment_id, instruction, attempt in self._instructions:
            taken = instruction in _AT_ONCE and room > 0
            room -= taken
            rows.append({"id": deployment_id, "instruction": instruction, "attempt": attempt, "tries": int(taken)})
        return [task(row) for row in await tx.all(_INSTRUCT, arrays(_INSTRUCTED, rows) | {"lease_s": lease_s})]

    async def _write_deployments(self, tx: Transaction) -> Mapping[str, datetime]:
        """When each was changed. What leaves a place makes way in it before another one takes it."""
        changes = self._changed.values()
        times: dict[str, datetime] = {}
        for group in (
            [one for one in changes if one.after.state not in _ALONE],
            [one for one in changes if one.after.state in _ALONE],
        ):
            if group:
                saved = await tx.all(_SAVE, arrays(_CHANGED, [one.row() for one in group]))
                times |= {str(row["id"]): row["changed_at"] for row in saved}
        late = self._changed.keys() - times.keys()
        if late:
            raise Aborted(f"deployment {min(late)} was changed by somebody else")
        return times


def _ids(now: Deployment) -> Context:
    """Of whoever decided; the deployment's own where nobody asked, as at a granted slot or a deadline."""
    return current() if current().request_id else now.context


def _news(moves: Sequence[_Move], times: Mapping[str, datetime]) -> Iterable[events_pb2.Envelope]:
    for move in moves:
        now = move.after.deployment
        event = messages.state_changed(replace(move.after, changed_at=times[now.id]), move.before)
        with working_on(move.context):
            yield envelope(event, tenant_id=now.team_id)
