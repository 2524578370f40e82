"""The disk of the log's lines fills up: new ones wait in the stream, old ones are read, and with more room all are there."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa
from neighbours.disks import Disk, small_disk

from shipoff.common.ids import new_id
from shipoff.common.postgres import Database
from shipoff.contracts.log.v1 import log_pb2
from shipoff.embedded.layout import backing_account
from shipoff.log.settings import LogSettings

from .conftest import Log, batch

LINES = 960
BATCH = 40
LINE_BYTES = 7 << 10


@pytest.fixture
async def settings(database_url_for, redis_url) -> LogSettings:
    """As the platform's own: what waits for room is not lost, so nobody is told so early."""
    return LogSettings(database_url=await database_url_for("log"), SHIPOFF_REDIS_URL=redis_url, hole_patience_s=300)


@pytest.fixture
async def disk(backing, settings: LogSettings, shipoff_home) -> AsyncIterator[Disk]:
    """A small one, with the log's lines on it."""
    name, account = f"small_{uuid.uuid4().hex[:6]}", backing_account()
    with small_disk(shipoff_home / name, 4) as made:
        if account is not None:
            os.chown(made.folder, account.uid, account.gid)
        async with backing.postgres.superuser() as admin:
            await admin.execute(f"CREATE TABLESPACE {name} OWNER log LOCATION '{made.folder}'")
        async with Database.open(settings.database_url) as database, database.transaction() as transaction:
            await transaction.execute(sa.text(f"ALTER TABLE chunks SET TABLESPACE {name}"))
        try:
            yield made
        finally:
            made.resize(64)
            async with backing.postgres.superuser() as admin:
                await admin.execute("DROP DATABASE log WITH (FORCE)")
                await admin.execute(f"DROP TABLESPACE {name}")


async def test_lines_wait_while_the_disk_is_full_and_none_is_lost(disk: Disk, log: Log, eventually) -> None:
    deployment = new_id()
    for start in range(1, LINES + 1, BATCH):
        lines = batch(deployment, range(start, start + BATCH))
        for line in lines.lines:
            # Nothing that would become smaller when it is compressed.
            line.text = os.urandom(LINE_BYTES).hex()
        await log.send(lines)
    await eventually(lambda: shutil.disk_usage(disk.folder).free < BATCH * LINE_BYTES, timeout_s=90)
    # What is stored is read, and what is not stored is not forgotten.
    assert 0 < len(await log.entries(deployment)) < LINES
    assert await _stored(log, deployment) < LINES
    disk.resize(64)

    async def all_stored() -> bool:
        return await _stored(log, deployment) == LINES

    await eventually(all_stored, timeout_s=120)
    read: list[log_pb2.Entry] = []
    while len(read) < LINES:
        page = await log.entries(deployment, after=read[-1].position if read else 0)
        assert page
        read += page
    # What had to wait stands behind what had room before it.
    assert sorted(entry.line.sequence for entry in read) == list(range(1, LINES + 1))


async def _stored(log: Log, deployment: str) -> int:
    """How many lines, that of the platform about lost ones included."""
    count = "SELECT coalesce(sum(last_position - first_position + 1), 0) FROM chunks WHERE deployment_id = CAST(:id AS uuid)"
    async with log.database.transaction() as transaction:
        return int(await transaction.scalar(sa.text(count), {"id": deployment}))
