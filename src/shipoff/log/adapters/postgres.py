"""Chunks and their catalogue in PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime

import sqlalchemy as sa

from shipoff.common.postgres import Database, Row, Transaction
from shipoff.log.domain import Chunk, Hole, Owner, Progress, Query, StreamKey
from shipoff.log.ports import DueHole

# Rows are locked in the order of their ids, so that two writers never wait for each other.
_LOCK = sa.text("""
    INSERT INTO deployments (deployment_id, project_id, team_id)
    SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:projects AS text[]), CAST(:teams AS text[])) AS given (id, project, team)
    ORDER BY id
    ON CONFLICT (deployment_id) DO UPDATE SET last_position = deployments.last_position
    RETURNING deployment_id, last_position""")
_PROGRESS = sa.text("""
    SELECT deployment_id, stream_id, high FROM streams
    WHERE (deployment_id, stream_id) IN (SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:streams AS text[])))""")
_HOLES = sa.text("""
    SELECT deployment_id, stream_id, first, last, noticed_at, reported FROM holes
    WHERE (deployment_id, stream_id) IN (SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:streams AS text[])))
    ORDER BY first""")
_APPEND = sa.text("""
    INSERT INTO chunks (deployment_id, first_position, last_position, source, instance,
                        received_at, first_time, last_time, payload)
    VALUES (:deployment_id, :first_position, :last_position, :source, :instance,
            :received_at, :first_time, :last_time, :payload)""")
_ADVANCE = sa.text("UPDATE deployments SET last_position = :last WHERE deployment_id = :id")
_SAVE_STREAM = sa.text("""
    INSERT INTO streams (deployment_id, stream_id, instance, high) VALUES (:id, :stream, :instance, :high)
    ON CONFLICT (deployment_id, stream_id) DO UPDATE SET high = excluded.high, written_at = now()""")
_DROP_HOLES = sa.text("DELETE FROM holes WHERE deployment_id = :id AND stream_id = :stream")
_ADD_HOLE = sa.text("""
    INSERT INTO holes (deployment_id, stream_id, first, last, noticed_at, reported)
    VALUES (:id, :stream, :first, :last, :noticed_at, :reported)""")
_DUE = sa.text("""
    SELECT stream_id, instance, first, last, noticed_at, reported FROM holes JOIN streams USING (deployment_id, stream_id)
    WHERE deployment_id = :id AND NOT reported AND noticed_at < :before ORDER BY stream_id, first""")
_DUE_DEPLOYMENTS = sa.text("SELECT DISTINCT deployment_id FROM holes WHERE NOT reported AND noticed_at < :before LIMIT 100")
_MARK = sa.text("UPDATE holes SET reported = true WHERE deployment_id = :id AND stream_id = :stream AND first = :first")
_LAST = sa.text("""
    SELECT deployment_id, last_position FROM deployments
    WHERE deployment_id = ANY(CAST(:ids AS uuid[])) AND last_position > 0""")
_DELETE_OLD = sa.text("""
    DELETE FROM chunks WHERE (deployment_id, last_position) IN
        (SELECT deployment_id, last_position FROM chunks WHERE received_at < :before ORDER BY received_at LIMIT :batch)""")
_CAPPED = sa.text("""
    UPDATE deployments SET kept_after = last_position - :lines
    WHERE last_position - kept_after > CAST(:lines AS bigint) + CAST(:lines AS bigint) / 10
    RETURNING deployment_id, kept_after""")
_DELETE_CAPPED = sa.text("DELETE FROM chunks WHERE deployment_id = :id AND last_position <= :kept_after")
_FORGET = sa.text("DELETE FROM streams WHERE written_at < :since")

_BATCH = 1000


def _pairs(streams: Iterable[StreamKey]) -> dict[str, list[str]]:
    given = list(streams)
    return {"ids": [key.deployment_id for key in given], "streams": [key.stream_id for key in given]}


def _key(row: Row) -> StreamKey:
    return StreamKey(str(row["deployment_id"]), row["stream_id"])


def _hole(row: Row) -> Hole:
    return Hole(row["first"], row["last"], noticed_at=row["noticed_at"], reported=row["reported"])


class PostgresWriting:
    """ports.Writing in one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    async def lock(self, owners: Mapping[str, Owner]) -> dict[str, int]:
        ids = list(owners)
        parameters = {
            "ids": ids,
            "projects": [owners[name].project_id for name in ids],
            "teams": [owners[name].team_id for name in ids],
        }
        rows = await self._tx.all(_LOCK, parameters)
        return {str(row["deployment_id"]): row["last_position"] for row in rows}

    async def progress(self, streams: Iterable[StreamKey]) -> dict[StreamKey, Progress]:
        pairs = _pairs(streams)
        holes: dict[StreamKey, list[Hole]] = {}
        for row in await self._tx.all(_HOLES, pairs):
            holes.setdefault(_key(row), []).append(_hole(row))
        rows = await self._tx.all(_PROGRESS, pairs)
        return {_key(row): Progress(row["high"], tuple(holes.get(_key(row), ()))) for row in rows}

    async def due_holes(self, deployment_id: str, *, noticed_before: datetime) -> list[DueHole]:
        rows = await self._tx.all(_DUE, {"id": deployment_id, "before": noticed_before})
        return [DueHole(StreamKey(deployment_id, row["stream_id"]), row["instance"], _hole(row)) for row in rows]

    async def append(self, chunks: Sequence[Chunk]) -> None:
        if not chunks:
            return
        await self._tx.execute(_APPEND, [asdict(chunk) for chunk in chunks])
        lasts = {chunk.deployment_id: chunk.last_position for chunk in chunks}
        await self._tx.execute(_ADVANCE, [{"id": name, "last": last} for name, last in lasts.items()])

    async def save_progress(
        self, before: Mapping[StreamKey, Progress], after: Mapping[StreamKey, Progress], instances: Mapping[StreamKey, int]
    ) -> None:
        changed = [key for key in after if after[key] != before.get(key)]
        if not changed:
            return
        rows = [{**_stream(key), "instance": instances[key], "high": after[key].high} for key in changed]
        await self._tx.execute(_SAVE_STREAM, rows)
        moved = [key for key in changed if after[key].holes != before.get(key, Progress()).holes]
        if not moved:
            return
        await self._tx.execute(_DROP_HOLES, [_stream(key) for key in moved])
        holes = [{**_stream(key), **asdict(hole)} for key in moved for hole in after[key].holes]
        if holes:
            await self._tx.execute(_ADD_HOLE, holes)

    async def mark_reported(self, hole: DueHole) -> None:
        await self._tx.execute(_MARK, {**_stream(hole.stream), "first": hole.hole.first})


def _stream(key: StreamKey) -> dict[str, str]:
    return {"id": key.deployment_id, "stream": key.stream_id}


class PostgresChunks:
    """ports.Chunks in the service's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[PostgresWriting]:
        async with self._database.transaction() as tx:
            yield PostgresWriting(tx)

    async def read(self, query: Query, *, chunks: int) -> list[Chunk]:
        return [_chunk(row) for row in await self._database.all(_reading(query, chunks))]

    async def last_positions(self, deployment_ids: Iterable[str]) -> dict[str, int]:
        rows = await self._database.all(_LAST, {"ids": list(deployment_ids)})
        return {str(row["deployment_id"]): row["last_position"] for row in rows}

    async def deployments_with_due_holes(self, *, noticed_before: datetime) -> list[str]:
        rows = await self._database.all(_DUE_DEPLOYMENTS, {"before": noticed_before})
        return [str(row["deployment_id"]) for row in rows]

    async def delete_before(self, received_before: datetime) -> int:
        removed = 0
        while True:
            async with self._database.transaction() as tx:
                batch = await tx.execute(_DELETE_OLD, {"before": received_before, "batch": _BATCH})
            removed += batch
            if batch < _BATCH:
                return removed

    async def delete_beyond(self, lines: int) -> int:
        removed = 0
        async with self._database.transaction() as tx:
            for row in await tx.all(_CAPPED, {"lines": lines}):
                removed += await tx.execute(_DELETE_CAPPED, {"id": row["deployment_id"], "kept_after": row["kept_after"]})
        return removed

    async def forget_streams(self, idle_since: datetime) -> int:
        async with self._database.transaction() as tx:
            return await tx.execute(_FORGET, {"since": idle_since})


_CHUNKS = sa.table(
    "chunks",
    sa.column("deployment_id", sa.Uuid(as_uuid=False)),
    sa.column("first_position", sa.BigInteger()),
    sa.column("last_position", sa.BigInteger()),
    sa.column("source", sa.SmallInteger()),
    sa.column("instance", sa.Integer()),
    sa.column("received_at", sa.DateTime(timezone=True)),
    sa.column("first_time", sa.DateTime(timezone=True)),
    sa.column("last_time", sa.DateTime(timezone=True)),
    sa.column("payload", sa.LargeBinary()),
)


def _reading(query: Query, chunks: int) -> sa.Select[tuple[object, ...]]:
    columns = _CHUNKS.c
    statement = sa.select(*columns).where(columns.deployment_id == query.deployment_id, columns.last_position > query.after)
    if query.before:
        statement = statement.where(columns.last_position < query.before)
    if query.sources:
        statement = statement.where(columns.source.in_(sorted(query.sources)))
    order = columns.last_position.desc() if query.tail else columns.last_position
    return statement.order_by(order).limit(chunks)


def _chunk(row: Row) -> Chunk:
    return Chunk(**{**row, "payload": bytes(row["payload"])})
