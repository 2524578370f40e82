"""The store of workloads and instances in PostgreSQL."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import sqlalchemy as sa
from google.protobuf.message import Message
from sqlalchemy.dialects.postgresql import JSONB, insert

from shipoff.common.errors import Aborted
from shipoff.common.outbox import Outbox
from shipoff.common.postgres import Database, Row, Transaction
from shipoff.common.streams import RUNTIME_EVENTS
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.runtime.domain import (
    Artifact,
    Emission,
    EmitEndpointsChanged,
    EmitFailed,
    EmitReady,
    Endpoint,
    Instance,
    InstanceKey,
    InstanceState,
    Phase,
    Process,
    Workload,
)
from shipoff.runtime.ports import Stored

_META = sa.MetaData()
_UUID = sa.Uuid(as_uuid=False)
_JSON_FIELDS = ("artifact", "processes", "endpoints", "exits", "hosts")


def _column(name: str) -> sa.Column[Any]:
    if name == "deployment_id":
        return sa.Column(name, _UUID, primary_key=True)
    if name in ("project_id", "team_id"):
        return sa.Column(name, _UUID)
    return sa.Column(name, JSONB) if name in _JSON_FIELDS else sa.Column(name)


_KEY = tuple(f.name for f in fields(InstanceKey))
workloads = sa.Table(
    "workloads",
    _META,
    *(_column(f.name) for f in fields(Workload)),
    sa.Column("changed_at", sa.DateTime(timezone=True)),
)
instances = sa.Table("instances", _META, *(_column(n) for n in (*_KEY, *(f.name for f in fields(Instance) if f.name != "key"))))


def _workload_values(workload: Workload) -> dict[str, Any]:
    return {**asdict(workload), "phase": workload.phase.value}


def _workload(row: Row) -> Workload:
    values = {f.name: row[f.name] for f in fields(Workload)}
    values["artifact"] = Artifact(**row["artifact"])
    values["processes"] = tuple(Process(p["name"], tuple(p["argv"])) for p in row["processes"])
    values["endpoints"] = tuple(Endpoint(**e) for e in row["endpoints"])
    values["phase"] = Phase(row["phase"])
    values["hosts"] = tuple(row["hosts"])
    return Workload(**values)


def _instance_values(instance: Instance) -> dict[str, Any]:
    values = {**asdict(instance), "state": instance.state.value}
    return {**values.pop("key"), **values}


def _instance(row: Row) -> Instance:
    values = {name: row[name] for name in row if name not in _KEY}
    values["state"] = InstanceState(row["state"])
    values["exits"] = tuple(row["exits"])
    return Instance(key=InstanceKey(**{name: row[name] for name in _KEY}), **values)


def event_of(deployment_id: str, emission: Emission) -> Message:
    """The message on the stream."""
    if isinstance(emission, (EmitReady, EmitEndpointsChanged)):
        endpoints = [types_pb2.Endpoint(host=one.host, port=one.port) for one in emission.endpoints]
        kind = events_pb2.WorkloadReady if isinstance(emission, EmitReady) else events_pb2.WorkloadEndpointsChanged
        return kind(deployment_id=deployment_id, revision=emission.revision, endpoints=endpoints)
    if isinstance(emission, EmitFailed):
        return events_pb2.WorkloadFailed(deployment_id=deployment_id, reason=emission.reason, was_ready=emission.was_ready)
    return events_pb2.WorkloadStopped(deployment_id=deployment_id)


class PostgresStore:
    """`ports.Store`; events leave through the outbox in the transaction of the state they tell of."""

    def __init__(
        self, database: Database, outbox: Outbox, *, check: Callable[[Transaction], Awaitable[None]] | None = None
    ) -> None:
        """`check` raises in a transaction that saves, where this store's user may not any more."""
        self._database = database
        self._outbox = outbox
        self._check = check

    async def insert(self, workload: Workload) -> bool:
        statement = insert(workloads).values(**_workload_values(workload)).on_conflict_do_nothing()
        async with self._database.transaction() as tx:
            return await tx.execute(statement) == 1

    async def load(self, deployment_id: str) -> Stored | None:
        async with self._database.transaction() as tx:
            row = await tx.one_or_none(sa.select(workloads).where(workloads.c.deployment_id == deployment_id))
            if row is None:
                return None
            own = sa.select(instances).where(instances.c.deployment_id == deployment_id)
            rows = await tx.all(own.order_by(instances.c.process, instances.c.index, instances.c.incarnation))
        return _workload(row), tuple(_instance(one) for one in rows)

    async def save(
        self, workload: Workload, instances: Sequence[Instance] | None = None, *, emissions: Sequence[Emission] = ()
    ) -> Workload:
        saved = replace(workload, version=workload.version + 1)
        same = sa.and_(workloads.c.deployment_id == workload.deployment_id, workloads.c.version == workload.version)
        statement = sa.update(workloads).where(same).values(**_workload_values(saved), changed_at=sa.func.now())
        async with self._database.transaction() as tx:
            if self._check is not None:
                await self._check(tx)
            if await tx.execute(statement) != 1:
                raise Aborted(f"workload {workload.deployment_id} was changed by somebody else")
            if instances is not None:
                await self._replace_instances(tx, workload.deployment_id, instances)
            for emission in emissions:
                message = event_of(workload.deployment_id, emission)
                await self._outbox.emit(tx, RUNTIME_EVENTS, message, tenant_id=workload.team_id)
        return saved

    @staticmethod
    async def _replace_instances(tx: Transaction, deployment_id: str, new: Sequence[Instance]) -> None:
        await tx.execute(sa.delete(instances).where(instances.c.deployment_id == deployment_id))
        if new:
            await tx.execute(sa.insert(instances), [_instance_values(one) for one in new])

    async def unsettled(self) -> Mapping[str, int]:
        statement = sa.select(workloads.c.deployment_id, workloads.c.version).where(sa.not_(workloads.c.settled))
        rows = await self._database.all(statement)
        return {row["deployment_id"]: row["version"] for row in rows}

    async def live_ports(self) -> frozenset[int]:
        """The ports that instances have now."""
        statement = sa.select(instances.c.port).where(instances.c.port > 0, instances.c.state != "waiting")
        return frozenset(row["port"] for row in await self._database.all(statement))

    async def forget_settled(self, *, older_than_s: float) -> None:
        old = workloads.c.changed_at < sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, older_than_s)
        async with self._database.transaction() as tx:
            await tx.execute(sa.delete(workloads).where(workloads.c.settled.is_(sa.true()), old))
