"""One transaction over the stored deployments on PostgreSQL: ports.Work. Opened by PostgresStore and by the consumers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count

import sqlalchemy as sa

from shipoff.common.errors import Aborted, PreconditionFailed
from shipoff.common.outbox import Outbox
from shipoff.common.postgres import Transaction, arrays, unnested
from shipoff.contracts.events.v1 import events_pb2
from shipoff.orchestrator import messages
from shipoff.orchestrator.adapters import admission, putting_back, routes, rows
from shipoff.orchestrator.adapters.admission import Holding
from shipoff.orchestrator.adapters.changes import Changes, artifact_key
from shipoff.orchestrator.adapters.rows import COLUMNS
from shipoff.orchestrator.admission import QueueEntry, Terms, Turns
from shipoff.orchestrator.domain import TERMINAL, Deployment, Instruction, Reserved, Resources, State
from shipoff.orchestrator.records import Held, NewDeployment, Record, Task, Used, fence

# Beyond the build's own time limit: fetching a builder, and the way of its last message; likewise for what is started.
_BUILD_SLACK_S = 60.0
_READY_SLACK_S = 30.0


_KNOWN = sa.text("SELECT id FROM deployments WHERE id = ANY(CAST(:ids AS uuid[]))")
# Projects in one order, as whatever is locked for many here: those who do the same wait for each other and never crosswise.
_NUMBERS = sa.text(
    "INSERT INTO project_numbers (project_id, last)"
    f" SELECT project_id, more FROM {unnested({'project_id': 'uuid', 'more': 'bigint'})} ORDER BY project_id"
    " ON CONFLICT (project_id) DO UPDATE SET last = project_numbers.last + excluded.last RETURNING project_id, last"
)
_NEW = {
    "id": "uuid",
    "project_id": "uuid",
    "project_name": "text",
    "team_id": "uuid",
    "environment": "text",
    "number": "bigint",
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
_INSERT = sa.text(
    f"INSERT INTO deployments ({', '.join(_NEW)}, state, deadline_at) SELECT {', '.join(_NEW)}, 'queued',"
    f" clock_timestamp() + make_interval(secs => queued_limit_s) FROM {unnested(_NEW)} ORDER BY id"
    f" ON CONFLICT (id) DO NOTHING RETURNING {COLUMNS}"
)
_GIVEN = unnested({"id": "uuid", "project_id": "uuid", "environment": "text", "accepted_at": "timestamptz"})
_SAME_PLACE = "d.project_id = given.project_id AND d.environment = given.environment"
_NEWER = sa.text(
    f"SELECT DISTINCT ON (given.id) given.id, d.number FROM {_GIVEN} JOIN deployments d ON {_SAME_PLACE}"
    " AND d.state <> 'failed' AND (d.accepted_at, d.id) > (given.accepted_at, given.id)"
    " ORDER BY given.id, d.accepted_at DESC, d.id DESC"
)
BY_ID = f"SELECT {COLUMNS} FROM deployments WHERE id = :id"
_BY_IDS = f"SELECT {COLUMNS} FROM deployments WHERE id = ANY(%s) ORDER BY id FOR UPDATE"
_OLDER = sa.text(
    _BY_IDS % f"ARRAY(SELECT d.id FROM {_GIVEN} JOIN deployments d ON {_SAME_PLACE} AND d.state IN ('queued', 'building')"
    " AND (d.accepted_at, d.id) < (given.accepted_at, given.id))"
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
    f"SELECT {COLUMNS} FROM deployments WHERE project_id = :project_id"
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
        self._reserved: Reserved | None = None
        # What this process does next, as its own.
        self._tasks: list[Task] = []
        self._known: dict[str, Record] = {}
        self._inserted: set[str] = set()
        self._newer: dict[str, int] = {}
        # What serves in a place, as far as that has been asked.
        self._serving: dict[_Place, str | None] = {}

    async def complete(self) -> None:
        """Writes what is left to be written: the transaction's last act."""
        await self._write()
        if self._tasks:
            # Read and locked before: the fences are as new as what is known of the deployments.
            held = routes.held(self._tasks, self._known, await routes.taken(self._tx, self._tasks))
            self._tx.after_commit(lambda: self._wakes.take(held))
        # The budget last: whoever waits for its row holds everything else that it needs.
        if self._holdings:
            await admission.settle(self._tx, self._holdings, self._reserved)

    async def _write(self) -> None:
        """So that what is read from the tables next is as it was decided."""
        if self._changes:
            changes, self._changes = self._changes, Changes()
            room = self._wakes.room() - len(self._tasks)
            taken, others = await changes.write(self._tx, self._outbox, room=room, lease_s=self._wakes.lease_s)
            self._tasks += taken
            if others:
                self._tx.after_commit(self._wakes.performer)

    async def prepare(
        self, deployment_ids: Collection[str] = (), *, new: Sequence[NewDeployment] = (), replacing: bool = False
    ) -> None:
        if new:
            await self._insert({one.id: one for one in new})
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

    async def _insert(self, new: dict[str, NewDeployment]) -> None:
        await self._write()
        for row in await self._tx.all(_KNOWN, {"ids": list(new)}):
            del new[str(row["id"])]
        if not new:
            return
        more = Counter(one.project_id for one in new.values())
        given = {"project_id": list(more), "more": list(more.values())}
        last = {str(row["project_id"]): row["last"] for row in await self._tx.all(_NUMBERS, given)}
        numbers = {project_id: count(last[project_id] - more[project_id] + 1) for project_id in more}
        values = [self._values(one, next(numbers[one.project_id])) for one in new.values()]
        # Those that another process was told of at the same moment are left out; their numbers are passed over.
        inserted = await self._remember(_INSERT, arrays(_NEW, values))
        self._inserted |= {record.deployment.id for record in inserted}
        places = arrays(_PLACE_OF, [_placed(record.deployment) for record in inserted])
        self._newer |= {str(row["id"]): row["number"] for row in await self._tx.all(_NEWER, places)}
        await self._remember(_OLDER, places)
        self._tx.after_commit(self._wakes.changed)
        self._tx.after_commit(self._wakes.admission)

    def _values(self, new: NewDeployment, number: int) -> dict[str, object]:
        values = asdict(new) | {
            "number": number,
            "origin_id": new.origin_id or None,
            "artifact_key": artifact_key(new.artifact),
            "request_id": new.context.request_id,
            "traceparent": new.context.traceparent,
        }
        return values | self._limits.of(new.request)

    async def _remember(self, statement: sa.TextClause, values: Mapping[str, object]) -> list[Record]:
        """What it locks, as it is by now: what this transaction has decided already stands."""
        found = [rows.record(row) for row in await self._tx.all(statement, values)]
        self._known = {record.deployment.id: record for record in found} | self._known
        return [self._known[record.deployment.id] for record in found]

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
        record = replace(self._known[after.id], deployment=after)
        if self._known[after.id].deployment.version != before.version:
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
        found = await self._remember(_LOCKED_NOW, {"ids": list(deployment_ids)})
        return {record.deployment.id: record.deployment for record in found}

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

    async def lock_admission(self) -> Reserved:
        self._reserved = await admission.budget(self._tx, lock=True)
        return self._reserved

    async def waiting(self) -> Sequence[QueueEntry]:
        return [entry for _, entry in await admission.entries(self._tx, self._terms, waiting=True)]

    async def turns(self, team_ids: Sequence[str]) -> Turns:
        return await admission.turns(self._tx, team_ids)

    async def take_turns(self, now: Turns, team_ids: Sequence[str]) -> None:
        await admission.take_turns(self._tx, now, team_ids)

    async def record_usage(self, deployment: Deployment, used: Used, *, succeeded: bool) -> None:
        await admission.record_usage(self._tx, deployment, used, succeeded=succeeded)

    async def next_fence(self, deployment: Deployment, *, call_off: bool = False) -> int:
        values = _placed(deployment) | {"floor": deployment.number if call_off else 0}
        row = await self._tx.one_or_none(_FENCE, values)
        assert row is not None
        return fence(deployment.number, row["floor"], row["generation"])


_PLACE_OF = ("id", "project_id", "environment", "accepted_at")


def _placed(deployment: Deployment) -> dict[str, object]:
    return {name: getattr(deployment, name) for name in _PLACE_OF}
