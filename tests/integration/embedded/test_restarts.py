"""The servers come back: after a kill, after a half-finished start, beside stale files."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import psutil
import pytest
from redis.asyncio import Redis

from shipoff.common.errors import Unavailable
from shipoff.embedded.caddy import Caddy
from shipoff.embedded.layout import Layout
from shipoff.embedded.platform import Platform, establish
from shipoff.embedded.postgres import Postgres
from shipoff.embedded.supervisor import Server, supervised
from shipoff.embedded.valkey import Valkey

Eventually = Callable[..., Awaitable[Any]]


def _postgres(platform: Platform) -> Postgres:
    return Postgres(platform.layout, platform.account, platform.passwords, durable=False)


@asynccontextmanager
async def _running(*servers: Server) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for server in servers:
            stack.push_async_callback(server.stop)
            await server.start()
        yield


async def _status(port: int) -> int:
    async with httpx2.AsyncClient(trust_env=False) as client:
        return (await client.get(f"http://127.0.0.1:{port}/")).status_code


async def _count(postgres: Postgres, database: str = "project") -> int:
    async with postgres.superuser(database) as connection:
        return int(await connection.fetchval("SELECT count(*) FROM kept"))


async def test_killed_servers_are_started_again_with_what_they_held(layout: Layout, eventually: Eventually) -> None:
    platform = establish(layout)
    postgres, valkey = _postgres(platform), Valkey(layout, platform.account, platform.passwords["valkey"])
    caddy = Caddy(layout, platform.account, platform.http_port)
    async with _running(postgres, valkey, caddy), supervised([postgres, valkey, caddy]):
        async with postgres.superuser("project") as connection:
            await connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
        client = Redis.from_url(valkey.url)
        await client.set("kept", "1")
        await _load_routes(layout, platform.http_port)
        # The append-only file is written every second.
        await client.execute_command("WAITAOF", 1, 0, 3000)
        pids = {_pid(server) for server in (postgres, valkey, caddy)}
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: _counted(postgres), timeout_s=30)
        await eventually(lambda: _got(client), timeout_s=30)
        await eventually(lambda: _serves(platform.http_port, 418), timeout_s=30)
        assert not pids & {_pid(server) for server in (postgres, valkey, caddy)}
        await client.aclose()


def _pid(server: Server) -> int:
    assert server.child is not None
    return server.child.pid


async def _counted(postgres: Postgres) -> bool:
    try:
        return await _count(postgres) == 1
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False


async def _got(client: Redis) -> bool:
    try:
        return bool(await client.get("kept") == b"1")
    except OSError:
        return False


async def _serves(port: int, status: int) -> bool:
    try:
        return await _status(port) == status
    except httpx2.HTTPError:
        return False


async def _load_routes(layout: Layout, port: int) -> None:
    """As the cdn service does it, without an admin part."""
    routes = [{"handle": [{"handler": "static_response", "status_code": 418}]}]
    config = {"apps": {"http": {"servers": {"edge": {"listen": [f":{port}"], "routes": routes}}}}}
    admin = httpx2.AsyncHTTPTransport(uds=str(layout.sockets("caddy") / "admin.sock"))
    async with httpx2.AsyncClient(transport=admin) as client:
        (await client.post("http://caddy/load", json=config)).raise_for_status()


async def test_a_configuration_without_an_admin_part_opens_no_admin_port(layout: Layout) -> None:
    platform = establish(layout)
    caddy = Caddy(layout, platform.account, platform.http_port)
    async with _running(caddy):
        await _load_routes(layout, platform.http_port)
        assert await _status(platform.http_port) == 418
        listening = psutil.Process(_pid(caddy)).net_connections("tcp")
        assert {connection.laddr[1] for connection in listening if connection.status == "LISTEN"} == {platform.http_port}
        await _load_routes(layout, platform.http_port)


async def test_a_new_platform_does_not_serve_an_earlier_ones_routes(layout: Layout) -> None:
    platform = establish(layout)
    async with _running(Caddy(layout, platform.account, platform.http_port)):
        await _load_routes(layout, platform.http_port)
    async with _running(Caddy(layout, platform.account, platform.http_port)):
        assert await _status(platform.http_port) == 503


async def test_a_postmasters_pid_file_with_a_strangers_pid_does_not_keep_it_from_starting(layout: Layout) -> None:
    platform = establish(layout)
    async with _running(_postgres(platform)):
        pass
    # Any other process of the same account: PostgreSQL would take it for its own earlier self.
    valkey = Valkey(layout, platform.account, platform.passwords["valkey"])
    async with _running(valkey):
        data = layout.server("postgres") / "data"
        (data / "postmaster.pid").write_text(f"{_pid(valkey)}\n{data}\n1\n5432\n{layout.sockets('postgres')}\n\n0 0\nready\n")
        async with _running(_postgres(platform)):
            assert valkey.child is not None
            assert valkey.child.running


async def test_a_second_postmaster_takes_the_place_of_one_that_was_left(layout: Layout) -> None:
    platform = establish(layout)
    first, second = _postgres(platform), _postgres(platform)
    async with _running(first):
        (layout.run / "postgres.pid").unlink()
        async with _running(second):
            assert first.child is not None
            assert not first.child.running or await first.child.wait() == 0


async def test_an_initialisation_that_was_cut_short_is_made_again(layout: Layout) -> None:
    platform = establish(layout)
    part = layout.server("postgres") / "data.new"
    part.mkdir()
    (part / "PG_VERSION").write_text("18\n")
    async with _running(_postgres(platform)):
        assert not part.exists()


async def test_databases_that_were_not_all_made_are_completed(layout: Layout) -> None:
    platform = establish(layout)
    postgres = _postgres(platform)
    async with _running(postgres), postgres.superuser() as connection:
        await connection.execute('DROP DATABASE "worker"')
        await connection.execute('DROP ROLE "worker"')
    async with _running(_postgres(platform)):
        connection = await asyncpg.connect(
            host=str(layout.sockets("postgres")), user="worker", password=platform.passwords["worker"], database="worker"
        )
        await connection.close()


async def test_a_server_that_cannot_start_is_told_with_its_log(layout: Layout) -> None:
    platform = establish(layout)
    valkey = Valkey(layout, platform.account, platform.passwords["valkey"])
    async with _running(valkey):
        pass
    _break(layout.server("valkey") / "data" / "appendonlydir" / "appendonly.aof.manifest")
    with pytest.raises(Unavailable, match=r"(?s)valkey ended with code 1 while starting: .*manifest"):
        await valkey.start()


def _break(path: Path) -> None:
    path.write_text("nonsense\n")
