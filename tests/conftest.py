"""Real PostgreSQL and Valkey for every test that asks, started once per test process, by the platform's own code."""

from __future__ import annotations

import asyncio
import inspect
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from neighbours import node as nodejs
from neighbours import redis_servers
from redis.asyncio import Redis

from shipoff.common import postgres
from shipoff.embedded.layout import Layout, backing_account, prepare
from shipoff.embedded.postgres import SERVICES, SUPERUSER, Postgres
from shipoff.embedded.valkey import Valkey


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Ends a run whose groups would be scattered over the workers without a word: each would start everything again."""
    if getattr(config.option, "loadgroup", False):
        scattered = [one.nodeid for one in items if one.get_closest_marker("xdist_group") and "@" not in one.nodeid]
        if scattered:
            raise pytest.UsageError(f"pytest-xdist does not group {scattered[0]}: does it know this version of pytest?")


@pytest.fixture(scope="session")
def shipoff_home() -> Iterator[Path]:
    """A data folder of this test process; SHIPOFF_HOME points at it, so that no test touches a real one."""
    # Below /tmp whatever TMPDIR says: Unix sockets allow about 100 characters.
    home = Path(tempfile.mkdtemp(prefix="sh-", dir="/tmp")).resolve()
    before = os.environ.get("SHIPOFF_HOME")
    os.environ["SHIPOFF_HOME"] = str(home)
    yield home
    os.environ.pop("SHIPOFF_HOME")
    if before is not None:
        os.environ["SHIPOFF_HOME"] = before
    shutil.rmtree(home, ignore_errors=True)


@dataclass
class Backing:
    """The servers that services need."""

    home: Path
    postgres: Postgres
    valkey: Valkey
    _migrated: set[str] = field(default_factory=set)

    @property
    def redis_url(self) -> str:
        """SHIPOFF_REDIS_URL."""
        return self.valkey.url

    @property
    def objects_url(self) -> str:
        """SHIPOFF_OBJECTS_URL."""
        return f"file://{self.home}/objects"

    def database_url(self, service: str) -> str:
        """The URL of a service's database; `fresh_database` empties and migrates it."""
        return self.postgres.url(service)

    async def fresh_database(self, service: str) -> str:
        """A migrated, empty database of this service; whoever was connected to the last one is cut off. Its URL."""
        template = f"{service}_migrated"
        async with self.postgres.superuser() as connection:
            if service not in self._migrated:
                await postgres.migrate(service, self.database_url(service))
                await connection.execute(f'ALTER DATABASE "{service}" RENAME TO "{template}"')
                self._migrated.add(service)
            await connection.execute(f'DROP DATABASE IF EXISTS "{service}" WITH (FORCE)')
            await connection.execute(f'CREATE DATABASE "{service}" TEMPLATE "{template}" OWNER "{service}"')
            await connection.execute(f'REVOKE ALL ON DATABASE "{service}" FROM PUBLIC')
        return self.database_url(service)


@pytest.fixture(scope="session")
async def backing(shipoff_home: Path) -> AsyncIterator[Backing]:
    """PostgreSQL and Valkey, as in the embedded platform, with their own data folder."""
    layout, account = Layout(shipoff_home), backing_account()
    prepare(layout, account)
    passwords = {role: secrets.token_urlsafe(12) for role in (SUPERUSER, *SERVICES)}
    database = Postgres(layout, account, passwords, durable=False)
    valkey = Valkey(layout, account, secrets.token_urlsafe(12))
    try:
        await asyncio.gather(database.start(), valkey.start())
        yield Backing(home=shipoff_home, postgres=database, valkey=valkey)
    finally:
        await asyncio.gather(database.stop(), valkey.stop())


@pytest.fixture
async def database_url_for(backing: Backing) -> Callable[[str], Awaitable[str]]:
    """`url = await database_url_for("project")`: the URL of a migrated, empty database."""
    return backing.fresh_database


async def _emptied(url: str) -> str:
    client = Redis.from_url(url, legacy_responses=False)
    await client.flushall()
    await client.aclose()
    return url


@pytest.fixture
async def redis_url(backing: Backing) -> str:
    """The URL of an empty Valkey."""
    return await _emptied(backing.redis_url)


@pytest.fixture(scope="session")
async def redis7(shipoff_home: Path) -> AsyncIterator[Valkey | None]:
    """Redis 7, not started yet; None where it is not installed."""
    if redis_servers.missing():
        yield None
        return
    server = redis_servers.Redis7(shipoff_home / "redis7")
    yield server
    await server.stop()


@pytest.fixture(params=["valkey9", "redis7"])
async def redis_server(request: pytest.FixtureRequest, backing: Backing, redis7: Valkey | None) -> Valkey:
    """An empty server to stop and start, once Valkey and once Redis 7: for what depends on the server itself."""
    server = backing.valkey if request.param == "valkey9" else redis7
    if server is None:
        pytest.skip(redis_servers.missing())
    if server.child is None or not server.child.running:
        await server.start()
    await _emptied(server.url)
    return server


@pytest.fixture
def node() -> None:
    """For tests that need Node.js: they are skipped without it, and fail under CI=true."""
    nodejs.require()


Eventually = Callable[..., Awaitable[Any]]


async def until_true(condition: Callable[[], Any], timeout_s: float = 30) -> Any:
    """Waits until the condition (sync or async) gives something true; that value.

    Raises AssertionError with the last value, or the last AssertionError of the condition itself, after `timeout_s`.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        failed: AssertionError | None = None
        value: Any = None
        try:
            value = condition()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
        except AssertionError as error:
            failed = error
        if loop.time() > deadline:
            raise failed or AssertionError(f"not within {timeout_s:g} s; the last value was {value!r}")
        await asyncio.sleep(0.02)


@pytest.fixture(scope="session")
def eventually() -> Eventually:
    """`await eventually(lambda: …, timeout_s=30)`: waits for a condition instead of sleeping."""
    return until_true
