"""Transactions, errors and migrations on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa

from shipoff.common.errors import AlreadyExists, InvalidInput, PreconditionFailed, Unavailable
from shipoff.common.postgres import Database, Part, migrate


@pytest.fixture
async def url(database_url_for) -> str:
    return await database_url_for("worker")


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    async with Database.open(url, pool_size=2) as opened:
        async with opened.transaction() as tx:
            await tx.execute(sa.text("CREATE TABLE things (name text PRIMARY KEY, size int CHECK (size > 0))"))
        yield opened


async def add(database: Database, name: str, size: int = 1) -> None:
    async with database.transaction() as tx:
        await tx.execute(sa.text("INSERT INTO things VALUES (:name, :size)"), {"name": name, "size": size})


async def names(database: Database) -> list[str]:
    return [row["name"] for row in await database.all(sa.text("SELECT name FROM things ORDER BY name"))]


async def test_what_raises_leaves_nothing_behind_and_calls_nobody(database):
    called: list[str] = []

    async def fail() -> None:
        async with database.transaction() as tx:
            tx.after_commit(lambda: called.append("committed"))
            await tx.execute(sa.text("INSERT INTO things VALUES ('a', 1)"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert await names(database) == []
    assert called == []


async def test_broken_constraints_have_names_of_their_own(database):
    await add(database, "a")
    with pytest.raises(AlreadyExists):
        await add(database, "a")
    with pytest.raises(PreconditionFailed):
        await add(database, "b", size=0)
    with pytest.raises(InvalidInput, match="NUL"):
        await add(database, "nul\x00")


async def test_a_pool_without_a_free_connection_says_so_and_recovers(database, monkeypatch):
    monkeypatch.setattr(database._engine.pool, "_timeout", 0.2)
    async with database.transaction() as one, database.transaction() as two:
        await one.scalar(sa.text("SELECT 1"))
        await two.scalar(sa.text("SELECT 1"))
        with pytest.raises(Unavailable, match="in use"):
            await names(database)
    assert await names(database) == []


async def test_a_server_that_comes_back_is_used_again(database, backing, eventually):
    await add(database, "a")
    await backing.postgres.stop()
    with pytest.raises(Unavailable):
        await names(database)
    await backing.postgres.start()

    async def answers() -> bool:
        try:
            return await names(database) == ["a"]
        except Unavailable:
            return False

    await eventually(answers)


async def test_migrations_at_once_do_not_collide(url):
    code = f"import asyncio; from shipoff.common.postgres import migrate; asyncio.run(migrate('worker', {url!r}))"
    processes = [await asyncio.create_subprocess_exec(sys.executable, "-c", code) for _ in range(2)]
    await asyncio.gather(*(migrate("worker", url) for _ in range(3)))
    assert [await process.wait() for process in processes] == [0, 0]


@pytest.mark.parametrize("in_mid_statement", [False, True])
async def test_a_transaction_that_stands_still_is_ended(url, database, monkeypatch, in_mid_statement: bool):
    """Also one that is paused between the messages that prepare and run a statement, which is not idle to the server."""
    from shipoff.common import postgres

    monkeypatch.setitem(postgres._SESSION, "transaction_timeout", "100")

    async def stand_still() -> None:
        async with Database.open(url) as other, other.transaction() as tx:
            await tx.execute(sa.text("INSERT INTO things VALUES ('held', 1)"))
            if in_mid_statement:
                raw = await tx.connection.get_raw_connection()
                await raw.driver_connection.prepare("SELECT 2")
            await asyncio.wait_for(add(database, "held"), 5)
            await tx.scalar(sa.text("SELECT 1"))

    with pytest.raises(Unavailable):
        await stand_still()
    assert await names(database) == ["held"]


async def test_a_lock_is_not_waited_for_as_long_as_its_holder_likes(url, monkeypatch):
    """Where a paused process has several transactions in line for one row, none of them may get it after the other."""
    from shipoff.common import postgres

    monkeypatch.setitem(postgres._SESSION, "lock_timeout", "100")
    locked = sa.text("SELECT pg_advisory_xact_lock(7)")
    async with Database.open(url) as database, database.transaction() as holder:
        await holder.scalar(locked)
        with pytest.raises(Unavailable, match="another transaction"):
            await _scalar(database, locked)


async def _scalar(database: Database, statement: sa.TextClause) -> None:
    async with database.transaction() as tx:
        await tx.scalar(statement)


async def test_what_only_reads_does_not_wait_for_those_who_write(url):
    """As long as a burst has all connections, whoever looks at a deployment would stand in line behind it."""
    async with Database.open(url, pool_size=1, read_pool_size=1) as database, database.transaction() as writer:
        await writer.execute(sa.text("CREATE TABLE written (name text)"))
        async with asyncio.timeout(4):
            assert await database.all(sa.text("SELECT 1 AS one")) == [{"one": 1}]
            async with database.transaction(reading=True) as reader:
                assert await reader.scalar(sa.text("SELECT 2")) == 2


ADD = sa.text("INSERT INTO things SELECT unnest(CAST(:names AS text[])), :size RETURNING name, size")
GROW = sa.text("UPDATE things SET size = size + :size RETURNING name")


async def test_parts_are_one_statement_each_with_values_and_an_answer_of_its_own(database):
    await add(database, "a")
    called: list[str] = []
    async with database.transaction() as tx:
        tx.after_commit(lambda: called.append("committed"))
        parts = [
            Part("added", ADD, {"names": ["b", "c"], "size": 5}, "array_agg(name ORDER BY name)"),
            Part("grown", GROW, {"size": 2}, "count(*)"),
        ]
        answer = await tx.together(parts)
    # None of them sees what another one changes.
    assert dict(answer) == {"added": ["b", "c"], "grown": 1}
    rows = await database.all(sa.text("SELECT name, size FROM things ORDER BY name"))
    assert [(row["name"], row["size"]) for row in rows] == [("a", 3), ("b", 5), ("c", 5)]
    assert called == ["committed"]


async def test_of_parts_all_happen_or_none(database):
    await add(database, "a")

    async def fail() -> None:
        async with database.transaction() as tx:
            await tx.together([Part("grown", GROW, {"size": 2}), Part("added", ADD, {"names": ["b"], "size": 0})])

    with pytest.raises(PreconditionFailed):
        await fail()
    assert [row["size"] for row in await database.all(sa.text("SELECT size FROM things"))] == [1]
