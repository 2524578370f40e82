"""The backing servers: who reaches what, and how they come back after a kill."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import asyncpg
import psutil
import pytest
from redis.asyncio import Redis

from shipoff.embedded.postgres import SERVICES


async def _connect(backing: Any, role: str, database: str) -> None:
    password = backing.postgres._passwords[role]
    host = str(backing.home / "run/postgres")
    connection = await asyncpg.connect(host=host, user=role, password=password, database=database)
    await connection.close()


@pytest.mark.parametrize("service", SERVICES)
async def test_a_services_role_reaches_its_own_database_only(backing: Any, service: str) -> None:
    await _connect(backing, service, service)
    for other in (*SERVICES, "postgres", "template1"):
        if other != service:
            with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
                await _connect(backing, service, other)


async def test_a_services_role_lacks_the_right_to_connect_even_without_host_rules(backing: Any) -> None:
    async with backing.postgres.superuser() as connection:
        rows = await connection.fetch(
            "SELECT r.rolname, d.datname FROM pg_roles r, pg_database d WHERE r.rolcanlogin AND NOT r.rolsuper"
            " AND has_database_privilege(r.oid, d.oid, 'CONNECT') AND d.datname !~ '_migrated$'"
        )
    assert {(row["rolname"], row["datname"]) for row in rows} == {(service, service) for service in SERVICES}


async def test_no_server_listens_on_a_tcp_port(backing: Any) -> None:
    for server in (backing.postgres, backing.valkey):
        process = psutil.Process(server.child.pid)
        listening = [c for p in (process, *process.children(recursive=True)) for c in p.net_connections("inet")]
        assert listening == []


@pytest.mark.skipif(os.geteuid() != 0, reason="accounts are changed by root only")
async def test_servers_drop_roots_privileges(backing: Any) -> None:
    for server in (backing.postgres, backing.valkey):
        process = psutil.Process(server.child.pid)
        assert process.uids().real == process.uids().effective != 0
        assert process.gids().effective != 0
        assert 0 not in [int(group) for group in _groups(process.pid)]


def _groups(pid: int) -> list[str]:
    with open(f"/proc/{pid}/status") as status:  # noqa: PTH123
        return next(line.split()[1:] for line in status if line.startswith("Groups:"))


async def test_valkey_wants_its_password(backing: Any) -> None:
    reader, writer = await asyncio.open_unix_connection(str(backing.home / "run/valkey/valkey.sock"))
    writer.write(b"PING\r\n")
    assert (await reader.readline()).startswith(b"-NOAUTH")
    writer.close()


async def test_a_fresh_database_is_empty_again(backing: Any, redis_url: str) -> None:
    client = Redis.from_url(redis_url)
    assert await client.dbsize() == 0
    await client.set("a", "b")
    await client.aclose()


@pytest.mark.parametrize("name", ["postgres", "valkey"])
async def test_a_killed_server_starts_again_with_its_data(backing: Any, name: str) -> None:
    server = getattr(backing, name)
    before = server.child.pid
    os.kill(before, signal.SIGKILL)
    await server.child.wait()
    await server.start()
    assert server.child.pid != before
    assert psutil.pid_exists(server.child.pid)
