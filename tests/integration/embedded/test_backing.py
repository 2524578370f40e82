"""The servers that run alone, over TCP, as a cluster's containers run them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import httpx2
import pytest
from neighbours.ports import free_port
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError

from shipoff.common.errors import InvalidInput, ShipoffError, Unavailable
from shipoff.common.objects import ObjectStore
from shipoff.embedded import backing
from shipoff.embedded.postgres import SERVICES

_STARTS_S = 60.0
_PROGRAM = (sys.executable, "-m", "shipoff")


@pytest.fixture
def passwords(home: Path) -> Path:
    """A folder as a Secret is mounted."""
    folder = home / "given"
    folder.mkdir(mode=0o700)
    for role in ("postgres", "valkey", *SERVICES):
        (folder / role).write_text(f"{role}-word\n")
    return folder


@asynccontextmanager
async def running(name: str, port: int, **environment: str) -> AsyncIterator[subprocess.Popen[bytes]]:
    """The server, once its port is open."""
    child = subprocess.Popen([*_PROGRAM, "backing", name], env={**os.environ, **environment})  # noqa: ASYNC220 - at once
    try:
        async with asyncio.timeout(_STARTS_S):
            while not await _open(port):
                assert child.poll() is None, f"{name} has ended"
                await asyncio.sleep(0.05)
        yield child
    finally:
        child.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            raise


async def _open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def told(*arguments: str, **environment: str) -> object:
    """What a verb printed as JSON."""
    command = [*_PROGRAM, *arguments, "--json"]
    done = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def beside(task: str, given: bytes = b"", **environment: str) -> bytes:
    """What a task beside the server wrote."""
    command = [*_PROGRAM, "backing", task]
    return subprocess.run(command, env={**os.environ, **environment}, input=given, stdout=subprocess.PIPE, check=True).stdout


async def renamed(url: str, table: str, name: str) -> None:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    await connection.execute(f"ALTER TABLE {table} RENAME TO {name}")
    await connection.close()


async def connect(port: int, role: str, database: str) -> None:
    connection = await asyncpg.connect(
        host="127.0.0.1", port=port, user=role, password=f"{role}-word", database=database, timeout=20
    )
    await connection.close()


async def test_postgres_has_a_database_a_service_and_is_migrated(home: Path, passwords: Path) -> None:
    port = free_port()
    given = {"SHIPOFF_BACKING_PASSWORDS": str(passwords), "SHIPOFF_BACKING_POSTGRES_PORT": str(port)}
    urls = {
        f"SHIPOFF_{name.upper()}_DATABASE_URL": f"postgresql+asyncpg://{name}:{name}-word@127.0.0.1:{port}/{name}"
        for name in SERVICES
    }
    # Before the server is there: the verb waits for it.
    waiting = asyncio.create_task(asyncio.to_thread(told, "migrate", "identity", "log", "--wait", "60", **urls))
    async with running("postgres", port, **given):
        assert await waiting == {"migrated": ["identity", "log"]}
        await connect(port, "identity", "identity")
        dumped = beside("dump", **given)
        await renamed(urls["SHIPOFF_IDENTITY_DATABASE_URL"], "users", "people")
        beside("restore", dumped, **given)
        for role, database in (("identity", "log"), ("postgres", "postgres"), ("postgres", "identity")):
            with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
                await connect(port, role, database)
        # What was changed after the dump is as it was.
        await renamed(urls["SHIPOFF_IDENTITY_DATABASE_URL"], "users", "people")


async def test_valkey_answers_who_has_the_password_and_keeps_what_it_was_told(home: Path, passwords: Path) -> None:
    port = free_port()
    given = {"SHIPOFF_BACKING_PASSWORDS": str(passwords), "SHIPOFF_BACKING_VALKEY_PORT": str(port)}
    for begun in (True, False):
        async with running("valkey", port, **given):
            async with Redis(port=port, password="valkey-word") as client:
                if begun:
                    await client.set("kept", "yes")
                assert await client.get("kept") == b"yes"
            once = Retry(NoBackoff(), 0)
            async with Redis(port=port, password="another", retry=once) as stranger:
                with pytest.raises(AuthenticationError):
                    await stranger.ping()


async def test_the_object_store_has_its_bucket(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    keys = {"SHIPOFF_OBJECTS_ACCESS_KEY_ID": "shipoff", "SHIPOFF_OBJECTS_SECRET_ACCESS_KEY": "secret-word"}
    for name, value in {**keys, "SHIPOFF_OBJECTS_ENDPOINT": f"http://127.0.0.1:{port}"}.items():
        monkeypatch.setenv(name, value)
    async with running("objects", port, SHIPOFF_BACKING_OBJECTS_PORT=str(port)):
        async with ObjectStore.open("s3://shipoff/objects") as objects:
            await objects.put_stream("a/b", _content())
            assert [chunk async for chunk in objects.get_stream("a/b")] == [b"content"]
        async with httpx2.AsyncClient() as stranger:
            assert (await stranger.get(f"http://127.0.0.1:{port}/shipoff/objects/a/b")).status_code in (400, 403)


async def _content() -> AsyncIterator[bytes]:
    yield b"content"


async def test_caddy_says_that_it_starts(home: Path) -> None:
    port = int(os.environ["SHIPOFF_HTTP_PORT"])
    async with running("caddy", port), httpx2.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{port}/")
        assert (answer.status_code, answer.text) == (503, "Shipoff is starting.\n")


@pytest.mark.parametrize(
    ("server", "field"),
    [("mysql", "server"), ("postgres", "SHIPOFF_BACKING_PASSWORDS"), ("objects", "SHIPOFF_OBJECTS_ACCESS_KEY_ID")],
)
def test_what_a_server_lacks_is_named(home: Path, server: str, field: str) -> None:
    with pytest.raises(ShipoffError) as refused:
        backing.become(server)
    assert refused.value.field == field


@pytest.mark.parametrize(("name", "field"), [("gateway", "SERVICE"), ("log", "SHIPOFF_LOG_DATABASE_URL")])
async def test_what_has_no_database_is_named(home: Path, name: str, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await backing.migrate([name], wait_s=0)
    assert refused.value.field == field


async def test_a_database_that_never_answers_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIPOFF_LOG_DATABASE_URL", f"postgresql+asyncpg://log:word@127.0.0.1:{free_port()}/log")
    with pytest.raises(Unavailable):
        await backing.migrate(["log"], wait_s=0.1)
