"""What a transaction has decided, written at its end by one statement, however many deployments and tables it is about.

Called by PostgresWork, which has every deployment in it locked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

import sqlalchemy as sa

from shipoff.common.errors import Aborted
from shipoff.common.outbox import INSERTION, Outbox
from shipoff.common.postgres import Part, Transaction, arrays, unnested
from shipoff.common.streams import DEPLOYMENT_PROGRESS, envelope
from shipoff.common.telemetry import Context, current, working_on
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.orchestrator import messages
from shipoff.orchestrator.adapters.rows import TASK, task
from shipoff.orchestrator.domain import Deployment, Instruction, State
from shipoff.orchestrator.records import ROUTING, Record, Task

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
    "changed_at": "timestamptz",
    "slotted": "boolean",
    "phase": "boolean",
    "releases": "boolean",
}
_TAKEN_OVER = [name for name in _CHANGED if name not in ("id", "was", "endpoints", "slotted", "phase", "releases")]
_SAVE = sa.text(
    f"UPDATE deployments AS d SET {', '.join(f'{name} = given.{name}' for name in _TAKEN_OVER)},"
    " endpoints = CAST(given.endpoints AS jsonb), checked_at = clock_timestamp(),"
    " slot_at = CASE WHEN given.slotted THEN clock_timestamp() ELSE slot_at END,"
    " deadline_at = CASE WHEN NOT given.phase THEN deadline_at ELSE clock_timestamp() + make_interval(secs => CASE"
    "  WHEN given.state = 'queued' OR given.awaits_slot THEN queued_limit_s"
    "  WHEN given.state = 'building' THEN building_limit_s WHEN given.state = 'provisioning' THEN provisioning_limit_s"
    "  + CASE WHEN given.releases THEN releasing_limit_s ELSE 0 END END) END,"
    " provisioning_limit_s = provisioning_limit_s + CASE WHEN given.releases THEN releasing_limit_s ELSE 0 END"
    f" FROM {unnested(_CHANGED)} WHERE d.id = given.id AND d.version = given.was RETURNING d.id"
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
    now: Record
    # A time limit begins anew; its build has just been given its slot.
    phase: bool = False
    slotted: bool = False

    @property
    def after(self) -> Deployment:
        """As it shall be."""
        return self.now.deployment

    def row(self) -> dict[str, object]:
        """For `_SAVE`."""
        after = self.after
        return {name: getattr(after, name, None) for name in _CHANGED} | {
            "was": self.stored.version,
            "changed_at": self.now.changed_at,
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


@dataclass(frozen=True)
class Taking:
    """How many instructions the process takes on as its own, and for how long."""

    room: int
    lease_s: float


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
        earlier = self._changed.get(now.id)
        slotted = phase and now.state is State.BUILDING
        self._changed[now.id] = _Change(
            earlier.stored if earlier else before,
            after,
            phase or bool(earlier and earlier.phase),
            slotted or bool(earlier and earlier.slotted),
        )
        if moved:
            self._moves.append(_Move(before, after, actor, _ids(now)))
        elif now.attempt > before.attempt:
            self._retries.append({"id": now.id, "attempt": now.attempt, "reason": now.reason})

    def instruct(self, deployment: Deployment, instruction: Instruction) -> None:
        """Has something done about it."""
        self._instructions[deployment.id, instruction, deployment.attempt] = None

    def routed(self) -> list[str]:
        """Whose routes are to be switched."""
        return [deployment_id for deployment_id, instruction, _ in self._instructions if instruction in ROUTING]

    async def write(
        self, tx: Transaction, outbox: Outbox, taking: Taking, more: Sequence[Part] = ()
    ) -> tuple[list[Task], bool]:
        """Writes everything, and `more`, by one statement. Raises Aborted when somebody else has changed one of them.

        The instructions that are this process's already, and whether there are others.
        """
        leaving = outbox.leaving(DEPLOYMENT_PROGRESS, list(_news(self._moves)))
        parts = [*await self._saving(tx), *self._following(taking), *more]
        if self._moves:
            parts.append(Part("emitted", sa.text(INSERTION), leaving.values, "array_agg(position)"))
        answer = await tx.together(parts)
        self._check(answer.get("saved"))
        if self._moves:
            outbox.written(tx, leaving, answer["emitted"])
        tasks = [task(row) for row in json.loads(answer.get("instructed") or "[]")]
        return [one for one in tasks if one.tries], any(not one.tries for one in tasks)

    def _following(self, taking: Taking) -> Iterable[Part]:
        """What goes with a change."""
        if self._moves:
            yield Part("moved", _TRANSITIONS, arrays(_MOVED, [move.row() for move in self._moves]))
        if self._retries:
            yield Part("tried", _RETRIES, arrays(_TRIED, self._retries))
        if self._instructions:
            rows, room = [], taking.room
            for deployment_id, instruction, attempt in self._instructions:
                taken = instruction in _AT_ONCE and room > 0
                room -= taken
                rows.append({"id": deployment_id, "instruction": instruction, "attempt": attempt, "tries": int(taken)})
            values = arrays(_INSTRUCTED, rows) | {"lease_s": taking.lease_s}
            yield Part("instructed", _INSTRUCT, values, "json_agg(instructed ORDER BY id)::text")

    async def _saving(self, tx: Transaction) -> list[Part]:
        """What leaves a place makes way in it before another one takes it: then by a statement of its own."""
        changes = list(self._changed.values())
        arriving = [one for one in changes if one.after.state in _ALONE]
        leaving = [one for one in changes if one.after.state not in _ALONE]
        if arriving and leaving:
            saved = await tx.all(_SAVE, arrays(_CHANGED, [one.row() for one in leaving]))
            self._check([row["id"] for row in saved], leaving)
            for one in leaving:
                del self._changed[one.after.id]
        rows = [one.row() for one in arriving or leaving]
        return [Part("saved", _SAVE, arrays(_CHANGED, rows), "array_agg(id)")] if rows else []

    def _check(self, saved: Iterable[object] | None, changes: Iterable[_Change] | None = None) -> None:
        wanted = {one.after.id for one in changes or self._changed.values()}
        late = wanted - {str(deployment_id) for deployment_id in saved or ()}
        if late:
            raise Aborted(f"deployment {min(late)} was changed by somebody else")


def _ids(now: Deployment) -> Context:
    """Of whoever decided; the deployment's own where nobody asked, as at a granted slot or a deadline."""
    return current() if current().request_id else now.context


def _news(moves: Sequence[_Move]) -> Iterable[events_pb2.Envelope]:
    for move in moves:
        event = messages.state_changed(move.after, move.before)
        with working_on(move.context):
            yield envelope(event, tenant_id=move.after.deployment.team_id)
