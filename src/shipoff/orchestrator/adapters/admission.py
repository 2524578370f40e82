"""The budget, the queue and what builds used, on PostgreSQL. Used by the stored deployments beside it."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from shipoff.common.postgres import Row, Transaction
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

LOCK_BUDGET = sa.text("SELECT 1 FROM budget FOR UPDATE")
BUDGET = sa.text(
    "SELECT cpu_millis, memory_bytes, cpu_millis_reserved, memory_bytes_reserved, cpu_millis_lasting, memory_bytes_lasting"
    " FROM budget"
)
# The sums are kept with every change: adding up what all running apps hold would cost more with each of them.
RESERVE = sa.text(
    "WITH held AS (INSERT INTO reservations (deployment_id, cpu_millis, memory_bytes, lasting)"
    "  VALUES (:id, :cpu, :memory, :lasting))"
    " UPDATE budget SET cpu_millis_reserved = cpu_millis_reserved + :cpu,"
    " memory_bytes_reserved = memory_bytes_reserved + :memory,"
    " cpu_millis_lasting = cpu_millis_lasting + CASE WHEN :lasting THEN :cpu ELSE 0 END,"
    " memory_bytes_lasting = memory_bytes_lasting + CASE WHEN :lasting THEN :memory ELSE 0 END"
)
RELEASE = sa.text(
    "WITH freed AS (DELETE FROM reservations WHERE deployment_id = :id RETURNING cpu_millis, memory_bytes, lasting)"
    " UPDATE budget SET cpu_millis_reserved = cpu_millis_reserved - freed.cpu_millis,"
    " memory_bytes_reserved = memory_bytes_reserved - freed.memory_bytes,"
    " cpu_millis_lasting = cpu_millis_lasting - CASE WHEN freed.lasting THEN freed.cpu_millis ELSE 0 END,"
    " memory_bytes_lasting = memory_bytes_lasting - CASE WHEN freed.lasting THEN freed.memory_bytes ELSE 0 END FROM freed"
)
_HELD = sa.text("SELECT cpu_millis, memory_bytes FROM reservations WHERE deployment_id = :id")
_QUEUED = sa.text(
    f"SELECT {COLUMNS}, held_cpu, held_memory, elapsed_s, environment_busy FROM (SELECT d.*,"
    " COALESCE(r.cpu_millis, 0) AS held_cpu, COALESCE(r.memory_bytes, 0) AS held_memory,"
    " COALESCE(extract(epoch FROM clock_timestamp() - d.slot_at), 0)::float AS elapsed_s,"
    " EXISTS (SELECT 1 FROM deployments o WHERE o.project_id = d.project_id AND o.environment = d.environment"
    "  AND o.state = 'building' AND o.id <> d.id) AND d.artifact_key = '' AS environment_busy"
    " FROM deployments d LEFT JOIN reservations r ON r.deployment_id = d.id"
    f" WHERE d.state IN ('queued', 'building') ORDER BY d.accepted_at, d.id LIMIT {_SEEN}) AS entries"
)
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
_TURNS = sa.text("SELECT team_id, passed FROM turns WHERE team_id = ANY(CAST(:ids AS uuid[]))")
_TURN = sa.text(
    "INSERT INTO turns (team_id, passed) VALUES (:team_id, :passed) ON CONFLICT (team_id) DO UPDATE SET passed = :passed"
)


async def budget(tx: Transaction, *, lock: bool) -> Reserved:
    """The budget; with `lock`, nobody else changes it until the transaction ends."""
    if lock:
        await tx.execute(LOCK_BUDGET)
    row = await tx.one_or_none(BUDGET)
    assert row is not None
    return Reserved(
        Resources(row["cpu_millis"], row["memory_bytes"]),
        Resources(row["cpu_millis_reserved"], row["memory_bytes_reserved"]),
        Resources(row["cpu_millis_lasting"], row["memory_bytes_lasting"]),
    )


async def entries(tx: Transaction, terms: Terms) -> Sequence[tuple[Record, QueueEntry]]:
    """What waits and what builds, oldest first, with what is known of its project's builds."""
    found = await tx.all(_QUEUED)
    measured = {}
    if found:
        ids = sorted({str(row["project_id"]) for row in found})
        for row in await tx.all(_MEASURED, {"ids": ids}):
            measured[str(row["project_id"])] = Measured(Resources(row["cpu"], row["memory"]), row["median_s"])
    return [(rows.record(row), _entry(row, measured.get(str(row["project_id"]), Measured()), terms)) for row in found]


def _entry(row: Row, measured: Measured, terms: Terms) -> QueueEntry:
    record = rows.record(row)
    return QueueEntry(
        record.deployment,
        app=app_needs(record, terms),
        measured=measured,
        environment_busy=row["environment_busy"],
        held=Resources(row["held_cpu"], row["held_memory"]),
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
    names = {process.name for process in types_pb2.Plan.FromString(now.plan).processes} - {_RELEASE}
    others = len(names - {_WEB})
    count = wanted + others if _WEB in names or not others else wanted * others
    return instances_need(each, count)


async def swap(tx: Transaction, deployment_id: str, needs: Resources) -> None:
    """Puts what an app needs in the place of what its build held; no more than there is."""
    reserved = await budget(tx, lock=True)
    row = await tx.one_or_none(_HELD, {"id": deployment_id})
    held = Resources(row["cpu_millis"], row["memory_bytes"]) if row else Resources(0, 0)
    await tx.execute(RELEASE, {"id": deployment_id})
    await reserve(tx, deployment_id, needs.clamped(held.plus(reserved.free)), lasting=True)


async def reserve(tx: Transaction, deployment_id: str, needs: Resources, *, lasting: bool) -> None:
    """Takes it out of the budget, for an app (`lasting`) or a build; the database refuses what is not there."""
    if needs != Resources(0, 0):
        values = {"id": deployment_id, "cpu": needs.cpu_millis, "memory": needs.memory_bytes, "lasting": lasting}
        await tx.execute(RESERVE, values)


async def held_by(tx: Transaction, deployment_id: str) -> Resources:
    """What a deployment holds."""
    row = await tx.one_or_none(_HELD, {"id": deployment_id})
    return Resources(row["cpu_millis"], row["memory_bytes"]) if row else Resources(0, 0)


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
    found = await tx.all(_TURNS, {"ids": list(team_ids)})
    clock = await tx.scalar(sa.text("SELECT passed FROM turn_clock"))
    return Turns({str(row["team_id"]): row["passed"] for row in found}, float(clock or 0))


async def take_turn(tx: Transaction, now: Turns, team_id: str) -> None:
    """Stores what a team's turn has made of the turns."""
    await tx.execute(_TURN, {"team_id": team_id, "passed": now.passed[team_id]})
    await tx.execute(sa.text("UPDATE turn_clock SET passed = :clock"), {"clock": now.clock})
