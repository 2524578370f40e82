"""The disk is full for builders, for artifacts, for databases: new work is refused in words, and goes on with more room."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
import sqlalchemy as sa
from neighbours.build import Yard, build_yard, plan_of
from neighbours.disks import Disk, small_disk

from shipoff.common.errors import Unavailable
from shipoff.common.postgres import Database
from shipoff.contracts.events.v1 import events_pb2
from shipoff.embedded.layout import backing_account

MIB = 1 << 20


@pytest.fixture
def disk(shipoff_home) -> Iterator[Disk]:
    """For builders; uv lies on it too."""
    with small_disk(shipoff_home / f"disk-{uuid.uuid4().hex[:6]}", 160) as made:
        yield made


@pytest.fixture
def store_disk(shipoff_home) -> Iterator[Disk]:
    """For sources and artifacts."""
    with small_disk(shipoff_home / f"store-{uuid.uuid4().hex[:6]}", 4) as made:
        yield made


@pytest.fixture
async def yard(backing, redis_url, database_url_for, disk: Disk, store_disk: Disk) -> AsyncIterator[Yard]:
    """A build service on these disks."""
    url = await database_url_for("build")
    options = {"database_url": url, "redis_url": redis_url, "objects_url": f"file://{store_disk.folder}/objects"}
    async with build_yard(backing.home, **options, folder=str(disk.folder / "builds"), free_bytes=4 * MIB) as made:
        yield made


async def test_a_builder_on_a_full_disk_fails_with_that_reason_and_the_next_has_room_again(yard, disk, eventually):
    fill = "dd if=/dev/zero of=big bs=1M count=300 || true; sleep 60"
    result = await yard.result(await yard.start({"app.json": plan_of(fill)}), timeout_s=60)
    assert result.failure == events_pb2.BUILD_FAILURE_DISK, result
    assert "the machine's disk is full: free some room, then deploy again" in result.reason
    # Its folder is removed a moment after it was told.
    await eventually(lambda: shutil.disk_usage(disk.folder).free > 60 * MIB, timeout_s=60)
    again = await yard.result(await yard.start({"app.json": plan_of("echo small > file")}), timeout_s=60)
    assert isinstance(again, events_pb2.BuildSucceeded), again
    await eventually(lambda: not yard.builders())


async def test_an_artifact_for_which_the_store_has_no_room_fails_with_that_reason_until_it_has(yard, store_disk, eventually):
    noise = {"app.json": plan_of("head -c 6000000 /dev/urandom > noise")}
    result = await yard.result(await yard.start(noise), timeout_s=60)
    assert result.failure == events_pb2.BUILD_FAILURE_ARTIFACT, result
    assert result.reason == "the artifact cannot be stored: the object store's disk is full"
    # What had arrived is gone: the room is there for others.
    await eventually(lambda: shutil.disk_usage(store_disk.folder).used < MIB)
    store_disk.resize(32)
    again = await yard.result(await yard.start(noise), timeout_s=60)
    assert isinstance(again, events_pb2.BuildSucceeded), again


@pytest.fixture
async def full_database(backing, database_url_for, shipoff_home) -> AsyncIterator[tuple[Database, Disk]]:
    """A database with a table whose disk is small."""
    url = await database_url_for("project")
    account, name = backing_account(), f"small_{uuid.uuid4().hex[:6]}"
    with small_disk(shipoff_home / name, 8) as disk:
        if account is not None:
            os.chown(disk.folder, account.uid, account.gid)
        async with backing.postgres.superuser() as admin:
            await admin.execute(f"CREATE TABLESPACE {name} OWNER project LOCATION '{disk.folder}'")
        async with Database.open(url) as database:
            try:
                async with database.transaction() as transaction:
                    await transaction.execute(sa.text(f"CREATE TABLE small (data bytea) TABLESPACE {name}"))
                    await transaction.execute(sa.text("ALTER TABLE small ALTER data SET STORAGE EXTERNAL"))
                yield database, disk
            finally:
                disk.resize(64)
                async with database.transaction() as transaction:
                    await transaction.execute(sa.text("DROP TABLE small"))
        async with backing.postgres.superuser() as admin:
            await admin.execute(f"DROP TABLESPACE {name}")


async def test_a_database_on_a_full_disk_refuses_new_work_in_words_and_keeps_what_it_has(full_database):
    database, disk = full_database
    kept = 0

    async def store() -> None:
        async with database.transaction() as transaction:
            await transaction.execute(sa.text("INSERT INTO small VALUES (:data)"), {"data": os.urandom(MIB)})

    async def fill() -> None:
        nonlocal kept
        while kept < 16:
            await store()
            kept += 1

    with pytest.raises(Unavailable, match="the database's disk is full") as refused:
        await fill()
    assert refused.value.remedy
    assert kept > 0

    async def count() -> int:
        async with database.transaction() as transaction:
            return int(await transaction.scalar(sa.text("SELECT count(*) FROM small")))

    assert await count() == kept
    disk.resize(32)
    await store()
    assert await count() == kept + 1
