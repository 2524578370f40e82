"""The budget, the queue and what builds used, on PostgreSQL. Used by the stored deployments beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import sqlalchemy as sa

from shipoff.common.postgres import Row, Transaction, arrays, unnested
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.orchestrator.adapters import rows
from shipoff.orchestrator.adapters.rows import COLUMNS
from shipoff.orchestrator.admission import Measured, QueueEntry, Terms, Turns, instances_need
from shipoff.orchestrator.domain import Deployment, Reserved, Resources
from shipoff.orchestrator.records import Record, Used

# How many entries of the queue are looked at, and how many of a project's last builds.
_SEEN = 500
_LAST_BUILDS = 10
_WEB = "web"
_RELEASE = "release"
_NOTHING = Resources(0, 0)

# As columns; the budget has each three times.
_AMOUNTS = ("cpu_millis", "memory_bytes", "cluster_cpu_millis", "cluster_memory_bytes")
_PARTS = ("", "_reserved", "_lasting")
_SUMS = tuple(f"{amount}{part}" for part in _PARTS[1:] for amount in _AMOUNTS)
_BUDGET = f"SELECT {', '.join(f'{amount}{part}' for part in _PARTS for amount in _AMOUNTS)} FROM budget"
BUDGET = sa.text(_BUDGET)
LOCKED_BUDGET = sa.text(f"{_BUDGET} FOR UPDATE")
# The sums are kept with every change: adding up what all running apps hold would cost more with each of them.
_HOLD = {"deployment_id": "uuid", **dict.fromkeys(_AMOUNTS, "bigint"), "lasting": "boolean"}
_SPEND = sa.text(
    "WITH released AS (DELETE FROM reservations WHERE deployment_id = ANY(CAST(:released AS uuid[]))),"
    f" taken AS (INSERT INTO reservations ({', '.join(_HOLD)}) SELECT {', '.join(_HOLD)} FROM {unnested(_HOLD)}"
    f"  ON CONFLICT (deployment_id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in (*_AMOUNTS, 'lasting'))})"
    f" UPDATE budget SET {', '.join(f'{name} = {name} + :{name}' for name in _SUMS)}"
)
_HELD = sa.text(
    f"SELECT deployment_id, {', '.join(_AMOUNTS)}, lasting FROM reservations WHERE deployment_id = ANY(CAST(:ids AS uuid[]))"
)
_ENTRIES = (
    f"SELECT {COLUMNS}, {', '.join(f'held_{amount}' for amount in _AMOUNTS)}, elapsed_s, environment_busy FROM (SELECT d.*,"
    f" {', '.join(f'COALESCE(r.{amount}, 0) AS held_{amount}' for amount in _AMOUNTS)},"
    " COALESCE(extract(epoch FROM clock_timestamp() - d.slot_at), 0)::float AS elapsed_s,"
    " EXISTS (SELECT 1 FROM deployments o WHERE o.project_id = d.project_id AND o.environment = d.environment"
    "  AND o.state = 'building' AND o.id <> d.id) AND d.artifact_key = '' AS environment_busy"
    " FROM deployments d LEFT JOIN reservations r ON r.deployment_id = d.id"
    f" WHERE d.state IN ('queued', 'building')%s ORDER BY d.accepted_at, d.id LIMIT {_SEEN}) AS entries"
)
_QUEUED = sa.text(_ENTRIES % "")
_WAITING = sa.text(_ENTRIES % " AND (d.state = 'queued' OR d.awaits_slot)")
_MEASURED = sa.text(
    "SELECT project_id, max(cpu_millis) AS cpu, max(memory_bytes) AS memory,"
    " COALESCE(percentile_cont(0.5) WITHIN GROUP (ORDER BY wall_s) FILTER (WHERE succeeded), 0)::float AS median_s"
    " FROM (SELECT *, row_number() OVER (PARTITION BY project_id ORDER BY id DESC) AS place FROM build_usage"
    f"  WHERE project_id = ANY(CAST(:ids AS uuid[]))) AS last WHERE place <= {_LAST_BUILDS} GROUP BY project_id"
)
_RECORD_USAGE = sa.text(
    "WITH forgotten AS (DELETE FROM build_usage WHERE project_id = :project_id AND id <= (SELECT id FROM build_usage"
    f"  WHERE project_id = :project_id ORDER BY id DESC OFFSET {_LAST_BUILDS - 1} LIMIT 1))"
    " INSERT INTO build_usage (deployment_id, attempt, project_id, succeeded, cpu_millis, memory_bytes, wall_s)"
    " VALUES (:id, :attempt, :project_id, :succeeded, :cpu, :memory, :wall_s) ON CONFLICT DO NOTHING"
)
# With the clock, which is nobody's.
_TURNS = sa.text(
    "SELECT team_id, passed FROM turns WHERE team_id = ANY(CAST(:ids AS uuid[])) UNION ALL SELECT NULL, passed FROM turn_clock"
)
_TAKE_TURNS = sa.text(
    f"WITH taken AS (INSERT INTO turns SELECT team_id, passed FROM {unnested({'team_id': 'uuid', 'passed': 'float8'})}"
    " ON CONFLICT (team_id) DO UPDATE SET passed = excluded.passed) UPDATE turn_clock SET passed = :clock"
)


async def budget(tx: Transaction, *, lock: bool) -> Reserved:
    """The budget; with `lock`, nobody else changes it until the transaction ends."""
    row = await tx.one_or_none(LOCKED_BUDGET if lock else BUDGET)
    assert row is not None
    return Reserved(*(Resources(*(row[f"{amount}{part}"] for amount in _AMOUNTS)) for part in _PARTS))


async def entries(tx: Transaction, terms: Terms, *, waiting: bool = False) -> Sequence[tuple[Record, QueueEntry]]:
    """What waits and what builds, or only what waits, oldest first, with what is known of its project's builds."""
    found = await tx.all(_WAITING if waiting else _QUEUED)
    measured = {}
    if found:
        ids = sorted({str(row["project_id"]) for row in found})
        for row in await tx.all(_MEASURED, {"ids": ids}):
            measured[str(row["project_id"])] = Measured(Resources(row["cpu"], row["memory"]), row["median_s"])
    records = [(rows.record(row), row) for row in found]
    return [
        (record, _entry(record, row, measured.get(record.deployment.project_id, Measured()), terms)) for record, row in records
    ]


def _entry(record: Record, row: Row, measured: Measured, terms: Terms) -> QueueEntry:
    return QueueEntry(
        record.deployment,
        app=app_needs(record, terms),
        measured=measured,
        environment_busy=row["environment_busy"],
        held=Resources(*(row[f"held_{amount}"] for amount in _AMOUNTS)),
        elapsed_s=row["elapsed_s"],
    )


def app_needs(record: Record, terms: Terms, *, replicas: int = 0) -> Resources:
    """What a deployment's instances reserve; nothing for files. Before there is a plan, only `web` is counted."""
    now = record.deployment
    if now.static:
        return Resources(0, 0)
    run = events_pb2.DeploymentRequested.FromString(record.request).configuration.run
    each = Resources(run.cpu_millis or terms.instance.cpu_millis, run.memory_bytes or terms.instance.memory_bytes)
    wanted = replicas or now.replicas or run.replicas or 1
    names = _process_names(now.plan) - {_RELEASE}
    others = len(names - {_WEB})
    count = wanted + others if _WEB in names or not others else wanted * others
    needs = instances_need(each, count)
    return needs.on_cluster if terms.on_cluster else needs


@lru_cache(maxsize=_SEEN)
def _process_names(plan: bytes) -> frozenset[str]:
    return frozenset(process.name for process in types_pb2.Plan.FromString(plan).processes)


@dataclass(frozen=True)
class Holding:
    """What a deployment holds of the budget: for its app, as long as that runs (`lasting`), or for its build."""

    amount: Resources = _NOTHING
    lasting: bool = False

    @property
    def lasting_amount(self) -> Resources:
        """What builds will not make room for."""
        return self.amount if self.lasting else _NOTHING


async def held(tx: Transaction, deployment_ids: Iterable[str]) -> Mapping[str, Holding]:
    """What these hold, as far as they do; nobody else changes it while they are locked."""
    found = await tx.all(_HELD, {"ids": list(deployment_ids)})
    return {
        str(row["deployment_id"]): Holding(Resources(*(row[amount] for amount in _AMOUNTS)), row["lasting"]) for row in found
    }


async def settle(tx: Transaction, wanted: Mapping[str, Holding], reserved: Reserved | None = None) -> None:
    """Has each of these (locked) deployments hold what it wants, in the place of what it held; no more than there is.

    `reserved`: the budget, where this transaction has it locked already.
    """
    before = await held(tx, wanted)
    changed = {one: holding for one, holding in wanted.items() if before.get(one, Holding()) != holding}
    if not changed:
        return
    free = (reserved or await budget(tx, lock=True)).free
    after = {}
    # What is given back first: others may take it.
    for one, holding in sorted(changed.items(), key=lambda item: item[1].amount != _NOTHING):
        room = before.get(one, Holding()).amount.plus(free)
        after[one] = Holding(holding.amount.clamped(room), holding.lasting)
        free = room.minus(after[one].amount)
    released = {"released": [one for one in changed if after[one].amount == _NOTHING]}
    spent = _spent(after.values(), [before[one] for one in changed if one in before])
    await tx.execute(_SPEND, released | arrays(_HOLD, _rows(after)) | spent)


def _rows(holdings: Mapping[str, Holding]) -> list[dict[str, object]]:
    return [
        {
            "deployment_id": one,
            **dict(zip(_AMOUNTS, holding.amount.amounts, strict=True)),
            "lasting": holding.lasting,
        }
        for one, holding in holdings.items()
        if holding.amount != _NOTHING
    ]


def _spent(after: Iterable[Holding], before: Iterable[Holding]) -> dict[str, int]:
    """By how much the sums change; the database refuses what is not there."""
    amount = lasting = _NOTHING
    for holding in after:
        amount, lasting = amount.plus(holding.amount), lasting.plus(holding.lasting_amount)
    for holding in before:
        amount, lasting = amount.minus(holding.amount), lasting.minus(holding.lasting_amount)
    return dict(zip(_SUMS, (*amount.amounts, *lasting.amounts), strict=True))


async def record_usage(tx: Transaction, deployment: Deployment, used: Used, *, succeeded: bool) -> None:
    """Keeps what a build used at its peak, of the last few of its project."""
    values = {
        "id": deployment.id,
        "attempt": deployment.attempt,
        "project_id": deployment.project_id,
        "succeeded": succeeded,
        "cpu": used.peak.cpu_millis,
        "memory": used.peak.memory_bytes,
        "wall_s": used.wall_s,
    }
    await tx.execute(_RECORD_USAGE, values)


async def turns(tx: Transaction, team_ids: Sequence[str]) -> Turns:
    """How far these teams have come."""
    passed = {row["team_id"]: row["passed"] for row in await tx.all(_TURNS, {"ids": list(team_ids)})}
    clock = passed.pop(None, 0.0)
    return Turns({str(team_id): value for team_id, value in passed.items()}, clock)


async def take_turns(tx: Transaction, now: Turns, team_ids: Sequence[str]) -> None:
    """Stores what these teams' turns have made of the turns."""
    taken = {"team_id": team_ids, "passed": [now.passed[team_id] for team_id in team_ids]}
    await tx.execute(_TAKE_TURNS, taken | {"clock": now.clock})
