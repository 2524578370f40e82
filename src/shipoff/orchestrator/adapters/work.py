"""One transaction over the stored deployments on PostgreSQL: ports.Work. Opened by PostgresStore and by the consumers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

import sqlalchemy as sa

from shipoff.common.errors import Aborted, PreconditionFailed
from shipoff.common.outbox import Outbox
from shipoff.common.postgres import Part, Row, Transaction, arrays, unnested
from shipoff.contracts.events.v1 import events_pb2
from shipoff.orchestrator import messages
from shipoff.orchestrator.adapters import admission, putting_back, routes, rows
from shipoff.orchestrator.adapters.admission import Holding
from shipoff.orchestrator.adapters.changes import Changes, Taking, artifact_key
from shipoff.orchestrator.adapters.rows import COLUMNS
from shipoff.orchestrator.admission import QueueEntry, Terms, Turns
from shipoff.orchestrator.domain import TERMINAL, Deployment, Instruction, Reserved, Resources, State
from shipoff.orchestrator.records import Held, NewDeployment, Record, Task, Used, fence

# Beyond the build's own time limit: fetching a builder, its last message's way; likewise for what is started.
_BUILD_SLACK_S = 60.0
_READY_SLACK_S = 30.0

_NEW = {
    "id": "uuid",
    "project_id": "uuid",
    "project_name": "text",
    "team_id": "uuid",
    "environment": "text",
    "accepted_at": "timestamptz",
    "request": "bytea",
    "branch": "text",
    "commit": "text",
    "commit_message": "text",
    "trigger": "smallint",
    "requested_by": "text",
    "origin_id": "uuid",
    "artifact": "bytea",
    "artifact_key": "text",
    "plan": "bytea",
    "static": "boolean",
    "reason": "text",
    "request_id": "text",
    "traceparent": "text",
    "queued_limit_s": "float8",
    "building_limit_s": "float8",
    "provisioning_limit_s": "float8",
    "releasing_limit_s": "float8",
}
# Under the next numbers of their projects, in the order in which they are given; those that are known already are left out. One
# that another transaction stores at the same moment is left out too, and its number passed over. Projects in one order, as
# whatever is locked for many here: those who do the same wait for each other and never crosswise.
_INSERT = sa.text(
    f"WITH fresh AS (SELECT * FROM {unnested(_NEW, ordinal='n')}"
    "  WHERE NOT EXISTS (SELECT 1 FROM deployments d WHERE d.id = given.id)),"
    " numbered AS (INSERT INTO project_numbers (project_id, last)"
    "  SELECT project_id, count(*) FROM fresh GROUP BY project_id ORDER BY project_id"
    "  ON CONFLICT (project_id) DO UPDATE SET last = project_numbers.last + excluded.last RETURNING project_id, last)"
    f" INSERT INTO deployments ({', '.join(_NEW)}, number, state, deadline_at) SELECT {', '.join(_NEW)},"
    "  last + 1 - row_number() OVER (PARTITION BY project_id ORDER BY n DESC), 'queued',"
    "  clock_timestamp() + make_interval(secs => queued_limit_s) FROM fresh JOIN numbered USING (project_id) ORDER BY id"
    f" ON CONFLICT (id) DO NOTHING RETURNING {COLUMNS}, clock_timestamp() AS read_at"
)
_GIVEN = unnested({"id": "uuid", "project_id": "uuid", "environment": "text", "accepted_at": "timestamptz"})
_SAME_PLACE = "d.project_id = given.project_id AND d.environment = given.environment"
BY_ID = f"SELECT {COLUMNS} FROM deployments WHERE id = :id"
_READ = f"SELECT {COLUMNS}, clock_timestamp() AS read_at FROM deployments"
_BY_IDS = f"{_READ} WHERE id = ANY(%s) ORDER BY id FOR UPDATE"
# What was accepted before these for the same places and is on its way, locked; and beside it, for each of these that something
# newer was accepted for, the number of that. Read once the numbers are ours: whoever has a lower one is stored.
_OTHERS = sa.text(
    "WITH given AS (SELECT * FROM " + _GIVEN + "), older AS (" + _BY_IDS % "ARRAY(SELECT d.id FROM given JOIN deployments d"
    f" ON {_SAME_PLACE} AND d.state IN ('queued', 'building') AND (d.accepted_at, d.id) < (given.accepted_at, given.id))" + "),"
    " newer AS (SELECT DISTINCT ON (given.id) given.id AS outdated, d.number AS newest FROM given JOIN deployments d"
    f" ON {_SAME_PLACE} AND d.state <> 'failed' AND (d.accepted_at, d.id) > (given.accepted_at, given.id)"
    "  ORDER BY given.id, d.accepted_at DESC, d.id DESC)"
    " SELECT * FROM older FULL JOIN newer ON false"
)
_LOCKED = sa.text(_BY_IDS % "CAST(:ids AS uuid[])")
# With what serves in their places, in the same order.
_LOCKED_WITH_SERVING = sa.text(
    _BY_IDS % "ARRAY(SELECT unnest(CAST(:ids AS uuid[])) UNION SELECT serving.id FROM deployments d JOIN deployments serving"
    " ON serving.project_id = d.project_id AND serving.environment = d.environment AND serving.state = 'production'"
    " WHERE d.id = ANY(CAST(:ids AS uuid[])))"
)
# For whoever holds the budget: others lock deployments before it, and are not waited for.
_LOCKED_NOW = sa.text(f"{_BY_IDS} SKIP LOCKED" % "CAST(:ids AS uuid[])")
PRODUCTION = (
    f"SELECT {COLUMNS} FROM deployments WHERE project_id = :project_id AND environment = :environment AND state = 'production'"
)
_SERVING = sa.text(
    _BY_IDS % f"ARRAY(SELECT d.id FROM {unnested({'project_id': 'uuid', 'environment': 'text'})} JOIN deployments d"
    f" ON {_SAME_PLACE} AND d.state = 'production')"
)
_OF_PROJECT = sa.text(
    f"{_READ} WHERE project_id = :project_id"
    " AND state IN ('queued', 'building', 'provisioning', 'production') ORDER BY id FOR UPDATE"
)
_FINISH = sa.text(
    f"DELETE FROM instructions AS i USING {unnested({'id': 'bigint', 'token': 'bigint'})}"
    " WHERE i.id = given.id AND i.lease_token = given.token"
    " RETURNING i.id, (SELECT d.state FROM deployments d WHERE d.id = i.deployment_id) AS state"
)
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
    # What a release command adds to provisioning.
    releasing_s: float = 0.0

    def of(self, request: bytes) -> dict[str, float]:
        """By the state's column, with what the project says."""
        wanted = events_pb2.DeploymentRequested.FromString(request)
        configuration = wanted.configuration
        build_s, ready_s = configuration.build.timeout_s, configuration.run.ready_timeout_s
        return {
            "queued_limit_s": float(configuration.build.queue_timeout_s or self.queued_s),
            "building_limit_s": float(build_s or self.building_s) + _BUILD_SLACK_S,
            "provisioning_limit_s": max(self.provisioning_s, ready_s + _READY_SLACK_S) if ready_s else self.provisioning_s,
            "releasing_limit_s": self.releasing_s if messages.runs_release_command(wanted) else 0.0,
        }


@dataclass(frozen=True)
class Wakes:
    """Whom a commit concerns: those who watch; admission, where there may be room; the performer, where there is work."""

    changed: Callable[[], None]
    admission: Callable[[], None]
    performer: Callable[[], None]
    # How many instructions the performer takes at once, for how long it holds them, and where it is given them.
    room: Callable[[], int]
    lease_s: float
    take: Callable[[Sequence[Held]], None]


_Place = tuple[str, str]


class PostgresWork:
    """One transaction. It remembers what it has locked, and writes what was decided at its end, or before it is read."""

    def __init__(self, tx: Transaction, outbox: Outbox, *, terms: Terms, limits: Limits, wakes: Wakes) -> None:
        self._tx = tx
        self._outbox = outbox
        self._terms = terms
        self._limits = limits
        self._wakes = wakes
        self._changes = Changes()
        self._holdings: dict[str, Holding] = {}
        self._held: dict[str, Holding] = {}
        self._reserved: Reserved | None = None
        # What is written besides, at the end.
        self._used: list[dict[str, object]] = []
        self._turns: list[Part] = []
        # The database's time of what was read last.
        self._now = datetime.min.replace(tzinfo=UTC)
        self._tasks: list[Task] = []  # what this process does next, as its own
        self._known: dict[str, Record] = {}
        self._inserted: set[str] = set()
        # Something new waits; admission has looked at it.
        self._accepted = self._admitted = False
        self._newer: dict[str, int] = {}
        # What serves in a place, as far as that has been asked.
        self._serving: dict[_Place, str | None] = {}

    async def complete(self) -> None:
        """Writes what is left to be written: the transaction's last act."""
        # Read and locked before: the fences are as new as what is known of the deployments.
        routed = routes.routed(self._tasks) + (self._changes.routed() if self._wakes.room() > 0 else [])
        taken = await routes.taken(self._tx, routed)
        more = list(self._turns)
        if self._used:
            more += admission.recording(self._used)
        # The budget last: whoever waits for its row holds everything else that it needs.
        if self._holdings:
            more += await admission.settle(self._tx, self._holdings, reserved=self._reserved, known=self._held)
        await self._write(more)
        if self._accepted and not self._admitted:
            self._tx.after_commit(self._wakes.admission)
        held = routes.held(self._tasks, self._known, taken)
        if held:
            self._tx.after_commit(lambda: self._wakes.take(held))

    async def _write(self, more: Sequence[Part] = ()) -> None:
        """So that what is read from the tables next is as it was decided."""
        if self._changes or more:
            changes, self._changes = self._changes, Changes()
            taking = Taking(self._wakes.room() - len(self._tasks), self._wakes.lease_s)
            taken, others = await changes.write(self._tx, self._outbox, taking, more)
            self._tasks += taken
            if others:
                self._tx.after_commit(self._wakes.performer)

    async def prepare(
        self, deployment_ids: Collection[str] = (), *, new: Sequence[NewDeployment] = (), replacing: bool = False
    ) -> None:
        if new:
            await self._insert(list({one.id: one for one in new}.values()))
        missing = sorted(set(deployment_ids) - self._known.keys())
        if missing:
            await self._remember(_LOCKED_WITH_SERVING if replacing else _LOCKED, {"ids": missing})
        if replacing:
            await self._prepare_serving({self._place(self._known[one]) for one in deployment_ids if one in self._known})

    async def _prepare_serving(self, places: set[_Place]) -> None:
        """Asked anew, now that they are locked: another may have come to serve in the meantime."""
        asked = [{"project_id": place[0], "environment": place[1]} for place in sorted(places - self._serving.keys())]
        if not asked:
            return
        found = await self._remember(_SERVING, arrays(("project_id", "environment"), asked))
        serving = [record for record in found if record.deployment.state is State.PRODUCTION]
        self._serving |= dict.fromkeys(places - self._serving.keys())
        self._serving |= {self._place(record): record.deployment.id for record in serving}

    async def _insert(self, new: Sequence[NewDeployment]) -> None:
        await self._write()
        inserted = await self._remember(_INSERT, arrays(_NEW, [self._values(one) for one in new]))
        if not inserted:
            return
        self._inserted |= {record.deployment.id for record in inserted}
        self._accepted = True
        places = arrays(_PLACE_OF, [_placed(record.deployment) for record in inserted])
        others = await self._tx.all(_OTHERS, places)
        self._know([row for row in others if row["id"]])
        self._newer |= {str(row["outdated"]): row["newest"] for row in others if row["outdated"]}
        self._tx.after_commit(self._wakes.changed)

    def _values(self, new: NewDeployment) -> dict[str, object]:
        values = asdict(new) | {
            "origin_id": new.origin_id or None,
            "artifact_key": artifact_key(new.artifact),
            "request_id": new.context.request_id,
            "traceparent": new.context.traceparent,
        }
        return values | self._limits.of(new.request)

    async def _remember(self, statement: sa.TextClause, values: Mapping[str, object]) -> list[Record]:
        """What it locks, as it is by now: what this transaction has decided already stands."""
        return self._know(await self._tx.all(statement, values))

    def _know(self, found: Sequence[Row]) -> list[Record]:
        records = [rows.record(row) for row in found]
        self._now = max([self._now, *(row["read_at"] for row in found)])
        self._known = {record.deployment.id: record for record in records} | self._known
        return [self._known[record.deployment.id] for record in records]

    @staticmethod
    def _place(record: Record) -> _Place:
        return record.deployment.project_id, record.deployment.environment

    async def insert(self, new: NewDeployment) -> Deployment | None:
        if new.id not in self._known:
            await self.prepare(new=[new])
        if new.id not in self._inserted:
            return None
        self._inserted.remove(new.id)
        return self._known[new.id].deployment

    async def locked(self, deployment_id: str) -> Deployment | None:
        await self.prepare([deployment_id])
        record = self._known.get(deployment_id)
        return record.deployment if record else None

    async def production(self, project_id: str, environment: str) -> Deployment | None:
        place = (project_id, environment)
        await self._prepare_serving({place})
        serving = self._serving[place]
        return self._known[serving].deployment if serving else None

    async def older_on_the_way(self, deployment: Deployment) -> Sequence[Deployment]:
        place, age = (deployment.project_id, deployment.environment), (deployment.accepted_at, deployment.id)
        others = [record.deployment for record in self._known.values() if self._place(record) == place]
        waiting = [one for one in others if one.state in (State.QUEUED, State.BUILDING) and (one.accepted_at, one.id) < age]
        return sorted(waiting, key=lambda one: one.number)

    async def newer_number(self, deployment: Deployment) -> int | None:
        return self._newer.get(deployment.id)

    async def baked(self, deployment: Deployment) -> bool:
        await self._write()
        return await putting_back.baked(self._tx, deployment, self._limits.bake_s)

    async def newer_under_way(self, deployment: Deployment) -> bool:
        await self._write()
        return await putting_back.newer_under_way(self._tx, deployment)

    async def broken(self, project_id: str, environment: str) -> Deployment | None:
        await self._write()
        return await putting_back.broken(self._tx, project_id, environment)

    async def put_back(self, deployment: Deployment) -> tuple[int, NewDeployment] | None:
        await self._write()
        return await putting_back.release_before(self._tx, deployment, self._limits.bake_s)

    async def lock_numbers(self, project_id: str) -> None:
        await putting_back.lock_numbers(self._tx, project_id)

    async def of_project(self, project_id: str) -> Sequence[Deployment]:
        await self._write()
        found = await self._remember(_OF_PROJECT, {"project_id": project_id})
        return sorted((record.deployment for record in found), key=lambda one: one.number)

    async def save(self, before: Deployment, after: Deployment, *, actor: str) -> None:
        known = self._known[after.id]
        # Never before the change before it, which may have been waited for.
        record = replace(known, deployment=after, changed_at=max(self._now, known.changed_at))
        if known.deployment.version != before.version:
            raise Aborted(f"deployment {after.id} was changed in the meantime")
        self._known[after.id] = record
        self._changes.save(before, record, actor=actor)
        self._tx.after_commit(self._wakes.changed)
        if after.state is State.PRODUCTION:
            self._serving[self._place(record)] = after.id
        elif before.state is State.PRODUCTION:
            self._serving[self._place(record)] = None
        if after.state in TERMINAL or (after.awaits_slot and not before.awaits_slot):
            self._hold(after.id, Holding())
        elif before.state is State.BUILDING and after.state is State.PROVISIONING:
            self._hold(after.id, Holding(admission.app_needs(record, self._terms), lasting=True))

    def _hold(self, deployment_id: str, holding: Holding) -> None:
        self._holdings[deployment_id] = holding
        self._tx.after_commit(self._wakes.admission)

    async def instruct(self, deployment: Deployment, instruction: Instruction) -> None:
        self._changes.instruct(deployment, instruction)

    async def finish(self, tasks: Sequence[Task]) -> Mapping[int, State]:
        given = {"id": [task.id for task in tasks], "token": [task.token for task in tasks]}
        return {row["id"]: State(row["state"]) for row in await self._tx.all(_FINISH, given)}

    async def locked_now(self, deployment_ids: Sequence[str]) -> Mapping[str, Deployment]:
        missing = [one for one in deployment_ids if one not in self._known]
        if missing:
            await self._remember(_LOCKED_NOW, {"ids": missing})
        return {one: self._known[one].deployment for one in deployment_ids if one in self._known}

    async def reserve(self, deployment: Deployment, needs: Resources) -> None:
        self._holdings[deployment.id] = Holding(needs, lasting=bool(deployment.artifact))

    async def resize(self, deployment: Deployment, replicas: int) -> None:
        needs = admission.app_needs(self._known[deployment.id], self._terms, replicas=replicas)
        await self._write()
        free = (await admission.budget(self._tx, lock=True)).free
        held = (await admission.held(self._tx, [deployment.id])).get(deployment.id, Holding()).amount
        if not needs.within(held.plus(free).maximum(held)):
            raise PreconditionFailed(
                f"there is no room for {replicas or 'its'} instances: they need {needs}, of which {held} are reserved"
                f" already, and {free} are free",
                field="replicas",
                remedy="scale something else down, or lower run.memory_bytes or run.cpu_millis",
            )
        self._hold(deployment.id, Holding(needs, lasting=True))

    async def release(self, deployment: Deployment) -> None:
        self._hold(deployment.id, Holding())

    async def lock_admission(self, *, wait: bool = True) -> Reserved | None:
        locked = admission.budget(self._tx, lock=True) if wait else admission.budget_if_free(self._tx)
        self._reserved = await locked
        self._admitted = self._reserved is not None
        return self._reserved

    async def waiting(self) -> tuple[Sequence[QueueEntry], Turns]:
        await self._write()
        found, turns = await admission.entries(self._tx, self._terms, waiting=True)
        # Whoever waits has no app yet; and nobody else changes what is held while the budget is locked.
        self._held = {record.deployment.id: Holding(entry.held) for record, entry in found}
        return [entry for _, entry in found], turns

    async def take_turns(self, now: Turns, team_ids: Sequence[str]) -> None:
        self._turns = admission.taking_turns(now, team_ids)

    async def record_usage(self, deployment: Deployment, used: Used, *, succeeded: bool) -> None:
        self._used.append(admission.usage(deployment, used, succeeded=succeeded))

    @property
    def has_accepted(self) -> bool:
        return self._accepted

    async def next_fence(self, deployment: Deployment, *, call_off: bool = False) -> int:
        values = _placed(deployment) | {"floor": deployment.number if call_off else 0}
        row = await self._tx.one_or_none(_FENCE, values)
        assert row is not None
        return fence(deployment.number, row["floor"], row["generation"])


_PLACE_OF = ("id", "project_id", "environment", "accepted_at")


def _placed(deployment: Deployment) -> dict[str, object]:
    return {name: getattr(deployment, name) for name in _PLACE_OF}
