"""Which release comes back when one breaks, and as what. Called by PostgresWork."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from shipoff.common.ids import new_id
from shipoff.common.postgres import Transaction
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.orchestrator import messages
from shipoff.orchestrator.adapters import rows
from shipoff.orchestrator.adapters.rows import COLUMNS
from shipoff.orchestrator.domain import Deployment
from shipoff.orchestrator.records import NewDeployment

_SERVED_S = sa.text(
    "SELECT extract(epoch FROM clock_timestamp() - max(t.time))::float AS served_s, d.request FROM deployments d"
    " JOIN transitions t ON t.deployment_id = d.id AND t.to_state = 'production' WHERE d.id = :id GROUP BY d.id"
)
# One that broke is FAILED, so what is INACTIVE and served did not. It served once at most: max() only picks that time.
_SERVICE = (
    "SELECT extract(epoch FROM max(time) FILTER (WHERE from_state = 'production')"
    " - max(time) FILTER (WHERE to_state = 'production')) AS served_s FROM transitions WHERE deployment_id = deployments.id"
)
_PLACE = "project_id = :project_id AND environment = :environment"
_RELEASE_BEFORE = sa.text(
    f"SELECT {COLUMNS} FROM deployments JOIN LATERAL ({_SERVICE}) AS service ON service.served_s IS NOT NULL"
    f" WHERE {_PLACE} AND state = 'inactive' AND number < :number AND artifact_key <> '' AND NOT artifact_expired"
    " ORDER BY service.served_s >= :bake_s DESC, number DESC LIMIT 1"
)
_UNDER_WAY = sa.text(
    f"SELECT 1 FROM deployments WHERE {_PLACE} AND state IN ('queued', 'building', 'provisioning')"
    " AND (accepted_at, id) > (:accepted_at, CAST(:id AS uuid)) LIMIT 1"
)
_BROKEN = sa.text(f"SELECT {COLUMNS} FROM deployments WHERE {_PLACE} AND state = 'production' AND broke <> ''")
_LOCK_NUMBERS = sa.text("SELECT last FROM project_numbers WHERE project_id = :project_id FOR UPDATE")


async def baked(tx: Transaction, deployment: Deployment, default_s: float) -> bool:
    """Whether it has served for its bake time, on the database's clock."""
    row = await tx.one_or_none(_SERVED_S, {"id": deployment.id})
    return row is None or row["served_s"] >= _bake_s(bytes(row["request"]), default_s)


async def release_before(tx: Transaction, deployment: Deployment, default_s: float) -> tuple[int, NewDeployment] | None:
    """The number of the release that comes back for this one, and its new deployment, with the snapshot it was made from."""
    values = {
        "project_id": deployment.project_id,
        "environment": deployment.environment,
        "number": deployment.number,
        "bake_s": default_s,
    }
    row = await tx.one_or_none(_RELEASE_BEFORE, values)
    if row is None:
        return None
    # Just after the broken one: whatever anybody asked for since then is newer.
    accepted_at = deployment.accepted_at + timedelta(microseconds=1)
    copy = messages.Copy(new_id(), types_pb2.TRIGGER_AUTOMATIC_ROLLBACK, "system", accepted_at)
    return row["number"], messages.copied(rows.record(row), copy)


async def newer_under_way(tx: Transaction, deployment: Deployment) -> bool:
    """Whether something that was accepted after it does not rest yet."""
    place = {"project_id": deployment.project_id, "environment": deployment.environment}
    return bool(await tx.scalar(_UNDER_WAY, place | {"accepted_at": deployment.accepted_at, "id": deployment.id}))


async def broken(tx: Transaction, project_id: str, environment: str) -> Deployment | None:
    """What serves, if it broke."""
    row = await tx.one_or_none(_BROKEN, {"project_id": project_id, "environment": environment})
    return rows.deployment(row) if row else None


async def lock_numbers(tx: Transaction, project_id: str) -> None:
    """Nobody else gives out a number of this project until the transaction ends."""
    await tx.scalar(_LOCK_NUMBERS, {"project_id": project_id})


def _bake_s(request: bytes, default_s: float) -> float:
    run = events_pb2.DeploymentRequested.FromString(request).configuration.run
    return 0.0 if run.no_automatic_rollback else run.bake_s or default_s
