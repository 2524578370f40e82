"""Where the logs of pods have been read to, in the runtime's database."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, insert

from shipoff.common.postgres import Database
from shipoff.runtime.adapters.kubernetes.position import Position

_TABLE = sa.Table("log_positions", sa.MetaData(), sa.Column("pod_uid", primary_key=True), sa.Column("position", JSONB))


class PostgresPositions:
    """`logs.Positions`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> Mapping[str, Position]:
        return {row["pod_uid"]: Position(**row["position"]) for row in await self._database.all(sa.select(_TABLE))}

    async def save(self, positions: Mapping[str, Position], *, gone: Collection[str]) -> None:
        rows = [{"pod_uid": uid, "position": asdict(position)} for uid, position in positions.items() if uid not in gone]
        async with self._database.transaction() as tx:
            if rows:
                inserted = insert(_TABLE).values(rows)
                changed = {"position": inserted.excluded.position}
                await tx.execute(inserted.on_conflict_do_update(index_elements=["pod_uid"], set_=changed))
            if gone:
                await tx.execute(sa.delete(_TABLE).where(_TABLE.c.pod_uid.in_(gone)))
