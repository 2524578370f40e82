"""The budget, the queue and what builds used, on PostgreSQL. Used by the stored deployments beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import sqlalchemy as sa

from shipoff.common.postgres import Part, Row, Transaction, arrays, unnested
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
_RELEASE_PROCESS = "release"
_NOTHING = Resources(0, 0)

# As columns; the budget has each three times.
_AMOUNTS = ("cpu_millis", "memory_bytes", "cluster_cpu_millis", "cluster_memory_bytes")
_PARTS = ("", "_reserved", "_lasting")
_SUMS = tuple(f"{amount}{part}" for part in _PARTS[1:] for amount in _AMOUNTS)
_BUDGET = f"SELECT {', '.join(f'{amount}{part}' for part in _PARTS for amount in _AMOUNTS)}%s FROM budget"
BUDGET = sa.text(_BUDGET % "")
LOCKED_BUDGET = sa.text(f"{_BUDGET} FOR UPDATE" % "")
FREE_BUDGET = sa.text(f"{_BUDGET} FOR UPDATE SKIP LOCKED" % "")
# What these hold is theirs while they are locked, so that it may be read while the budget is waited for.
_SPENT_BUDGET = sa.text(
    f"{_BUDGET} FOR UPDATE"
    % ", (SELECT json_agg(r)::text FROM reservations r WHERE r.deployment_id = ANY(CAST(:ids AS uuid[]))) AS reservations"
)
# The sums are kept with every change: adding up what all running apps hold would cost more with each of them.
_HOLD = {"deployment_id": "uuid", **dict.fromkeys(_AMOUNTS, "bigint"), "lasting": "boolean"}
_RELEASE = sa.text("DELETE FROM reservations WHERE deployment_id = ANY(CAST(:ids AS uuid[]))")
_TAKE = sa.text(
    f"INSERT INTO reservations ({', '.join(_HOLD)}) SELECT {', '.join(_HOLD)} FROM {unnested(_HOLD)}"
    f" ON CONFLICT (deployment_id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in (*_AMOUNTS, 'lasting'))}"
)
_SPEND = sa.text(f"UPDATE budget SET {', '.join(f'{name} = {name} + :{name}' for name in _SUMS)}")
_HELD = sa.text(
    f"SELECT deployment_id, {', '.join(_AMOUNTS)}, lasting FROM reservations WHERE deployment_id = ANY(CAST(:ids AS uuid[]))"
)
# With what the last builds of each one's project used, and how far its team has come.
_ENTRIES = (
    f"SELECT {COLUMNS}, {', '.join(f'held_{amount}' for amount in _AMOUNTS)}, elapsed_s, environment_busy, used.*,"
    " (SELECT t.passed FROM turns t WHERE t.team_id = entries.team_id), (SELECT c.passed FROM turn_clock c) AS clock"
    " FROM (SELECT d.*,"
    f" {', '.join(f'COALESCE(r.{amount}, 0) AS held_{amount}' for amount in _AMOUNTS)},"
    " COALESCE(extract(epoch FROM clock_timestamp() - d.slot_at), 0)::float AS elapsed_s,"
    " EXISTS (SELECT 1 FROM deployments o WHERE o.project_id = d.project_id AND o.environment = d.environment"
    "  AND o.state = 'building' AND o.id <> d.id) AND d.artifact_key = '' AS environment_busy"
    " FROM deployments d LEFT JOIN reservations r ON r.deployment_id = d.id"
    f" WHERE d.state IN ('queued', 'building')%s ORDER BY d.accepted_at, d.id LIMIT {_SEEN}) AS entries"
    " CROSS JOIN LATERAL (SELECT max(last.cpu_millis) AS used_cpu, max(last.memory_bytes) AS used_memory,"
    "  COALESCE(percentile_cont(0.5) WITHIN GROUP (ORDER BY wall_s) FILTER (WHERE succeeded), 0)::float AS median_s"
    "  FROM (SELECT * FROM build_usage b WHERE b.project_id = entries.project_id"
    f"  ORDER BY b.id DESC LIMIT {_LAST_BUILDS}) AS last) AS used ORDER BY accepted_at, id"
)
_QUEUED = sa.text(_ENTRIES % "")
_WAITING = sa.text(_ENTRIES % " AND (d.state = 'queued' OR d.awaits_slot)")
_USAGE = {
    "deployment_id": "uuid",
    "attempt": "bigint",
    "project_id": "uuid",
    "succeeded": "boolean",
    "cpu_millis": "integer",
    "memory_bytes": "bigint",
    "wall_s": "float8",
}
_RECORD_USAGE = sa.text(
    f"INSERT INTO build_usage ({', '.join(_USAGE)}) SELECT {', '.join(_USAGE)} FROM {unnested(_USAGE)} ON CONFLICT DO NOTHING"
)
# All but the last ones.
_FORGET_USAGE = sa.text(
    "DELETE FROM build_usage WHERE id IN (SELECT id FROM"
    " (SELECT id, row_number() OVER (PARTITION BY project_id ORDER BY id DESC) AS place"
    f" FROM build_usage WHERE project_id = ANY(CAST(:ids AS uuid[]))) AS of WHERE place >= {_LAST_BUILDS})"
)
_TAKE_TURNS = sa.text(
    f"INSERT INTO turns SELECT team_id, passed FROM {unnested({'team_id': 'uuid', 'passed': 'float8'})}"
    " ON CONFLICT (team_id) DO UPDATE SET passed = excluded.passed"
)
_SET_CLOCK = sa.text("UPDATE turn_clock SET passed = :clock")


def _reserved(row: Row) -> Reserved:
    return Reserved(*(Resources(*(row[f"{amount}{part}"] for amount in _AMOUNTS)) for part in _PARTS))


async def budget(tx: Transaction, *, lock: bool) -> Reserved:
    """The budget; with `lock`, nobody else changes it until the transaction ends."""
    row = await tx.one_or_none(LOCKED_BUDGET if lock else BUDGET)
    assert row is not None
    return _reserved(row)


async def budget_if_free(tx: Transaction) -> Reserved | None:
    """The budget, locked; None where somebody else has it locked."""
    row = await tx.one_or_none(FREE_BUDGET)
    return _reserved(row) if row else None


async def entries(tx: Transaction, terms: Terms, *, waiting: bool = False) -> tuple[Sequence[tuple[Record, QueueEntry]], Turns]:
    """What waits and what builds, or only what waits, oldest first, with what is known of its project's builds; and how far
    the teams of these have come."""
    found = await tx.all(_WAITING if waiting else _QUEUED)
    records = [(rows.record(row), row) for row in found]
    passed = {str(row["team_id"]): row["passed"] for row in found if row["passed"] is not None}
    turns = Turns(passed, found[0]["clock"] if found else 0.0)
    return [(record, _entry(record, row, terms)) for record, row in records], turns


def _entry(record: Record, row: Row, terms: Terms) -> QueueEntry:
    return QueueEntry(
        record.deployment,
        app=app_needs(record, terms),
        measured=Measured(Resources(row["used_cpu"] or 0, row["used_memory"] or 0), row["median_s"]),
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
    names = _process_names(now.plan) - {_RELEASE_PROCESS}
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
    return _holdings(await tx.all(_HELD, {"ids": list(deployment_ids)}))


def _holdings(found: Iterable[Row]) -> dict[str, Holding]:
    return {
        str(row["deployment_id"]): Holding(Resources(*(row[amount] for amount in _AMOUNTS)), row["lasting"]) for row in found
    }


async def settle(
    tx: Transaction, wanted: Mapping[str, Holding], *, reserved: Reserved | None, known: Mapping[str, Holding]
) -> list[Part]:
    """What has each of these (locked) deployments hold what it wants, in the place of what it held; no more than there is.

    `reserved`: the budget, where this transaction has it locked already; otherwise it is locked if anything changes.
    `known`: what is known by then of what they hold.
    """
    asked = wanted.keys() - known.keys()
    if reserved is None and any(holding.amount != _NOTHING for holding in wanted.values()):
        row = await tx.one_or_none(_SPENT_BUDGET, {"ids": list(asked)})
        assert row is not None
        reserved, found = _reserved(row), _holdings(json.loads(row["reservations"] or "[]"))
    else:
        found = dict(await held(tx, asked)) if asked else {}
    before = {**known, **found}
    changed = {one: holding for one, holding in wanted.items() if before.get(one, Holding()) != holding}
    return _spending(changed, before, (reserved or await budget(tx, lock=True)).free) if changed else []


def _spending(changed: Mapping[str, Holding], before: Mapping[str, Holding], free: Resources) -> list[Part]:
    after = {}
    # What is given back first: others may take it.
    for one, holding in sorted(changed.items(), key=lambda item: item[1].amount != _NOTHING):
        room = before.get(one, Holding()).amount.plus(free)
        after[one] = Holding(holding.amount.clamped(room), holding.lasting)
        free = room.minus(after[one].amount)
    released = [one for one in changed if after[one].amount == _NOTHING]
    parts = [Part("spent", _SPEND, _spent(after.values(), [before[one] for one in changed if one in before]))]
    if released:
        parts.append(Part("released", _RELEASE, {"ids": released}))
    if len(released) < len(after):
        parts.append(Part("reserved", _TAKE, arrays(_HOLD, _rows(after))))
    return parts


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


def usage(deployment: Deployment, used: Used, *, succeeded: bool) -> dict[str, object]:
    """What a build used at its peak, as a row."""
    return {
        "deployment_id": deployment.id,
        "attempt": deployment.attempt,
        "project_id": deployment.project_id,
        "succeeded": succeeded,
        "cpu_millis": used.peak.cpu_millis,
        "memory_bytes": used.peak.memory_bytes,
        "wall_s": used.wall_s,
    }


def recording(used: Sequence[Mapping[str, object]]) -> list[Part]:
    """What keeps these rows, and the last few of their projects before them."""
    projects = {"ids": sorted({str(row["project_id"]) for row in used})}
    return [Part("forgotten", _FORGET_USAGE, projects), Part("used", _RECORD_USAGE, arrays(_USAGE, used))]


def taking_turns(now: Turns, team_ids: Sequence[str]) -> list[Part]:
    """What stores these teams' turns."""
    taken = {"team_id": team_ids, "passed": [now.passed[team_id] for team_id in team_ids]}
    return [Part("turned", _TAKE_TURNS, taken), Part("clocked", _SET_CLOCK, {"clock": now.clock})]
