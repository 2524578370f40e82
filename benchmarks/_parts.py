"""What figures run on: the embedded servers in a data folder of their own, child processes, and the raw control."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import asyncpg
import psutil
from redis.asyncio import Redis

from shipoff.embedded.layout import Layout, backing_account, prepare
from shipoff.embedded.platform import Platform, establish
from shipoff.embedded.postgres import SUPERUSER, Postgres
from shipoff.embedded.valkey import Valkey

_STOP_S = 30.0
_CONTROL_COMMITS = 200
_CONTROL_XADDS = 1000
_SCRATCH = "shipoff_control"


def free_port() -> int:
    """A TCP port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def data_folder() -> Iterator[Path]:
    """A new data folder that SHIPOFF_HOME names; gone afterwards."""
    # Below /tmp whatever TMPDIR says: Unix sockets allow about 100 characters.
    home = Path(tempfile.mkdtemp(prefix="bench-", dir="/tmp")).resolve()
    home.chmod(0o711)
    os.environ |= {"SHIPOFF_HOME": str(home), "SHIPOFF_HTTP_PORT": str(free_port())}
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def child(argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Iterator[int]:
    """A process for as long as the block lasts; its pid."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            argv, env={**os.environ, **(env or {})}, cwd=cwd, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@dataclass(frozen=True)
class Servers:
    """PostgreSQL and Valkey, durable as in the platform."""

    platform: Platform
    postgres: Postgres
    valkey: Valkey

    @property
    def valkey_socket(self) -> Path:
        """Valkey's Unix socket."""
        return self.platform.layout.sockets("valkey") / "valkey.sock"

    def pids(self) -> dict[str, int]:
        """Their processes, by name."""
        files = {name: self.platform.layout.run / f"{name}.pid" for name in ("postgres", "valkey")}
        return {name: int(json.loads(file.read_text())["pid"]) for name, file in files.items()}

    def postgres_url(self, database: str) -> str:
        """A libpq URL of a database, as the superuser."""
        password = quote(self.platform.passwords[SUPERUSER], safe="")
        return f"postgresql://{SUPERUSER}:{password}@/{database}?host={self.platform.layout.sockets('postgres')}"


@asynccontextmanager
async def servers(home: Path) -> AsyncIterator[Servers]:
    """Both servers, started and stopped by the platform's own code; platform.env is written for services beside them."""
    layout, account = Layout(home), backing_account()
    prepare(layout, account)
    platform = establish(layout)
    made = Servers(
        platform,
        Postgres(layout, account, platform.passwords),
        Valkey(layout, account, platform.passwords["valkey"]),
    )
    try:
        await asyncio.gather(made.postgres.start(), made.valkey.start())
        yield made
    finally:
        await asyncio.gather(made.postgres.stop(), made.valkey.stop())


def cpu_s(pid: int) -> float:
    """CPU time of a process and of all that it has started, those that ended included; of this one alone without them."""
    processes = [psutil.Process(pid)]
    processes += processes[0].children(recursive=True) if pid != os.getpid() else []
    spent = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            spent += sum(process.cpu_times()[: 4 if pid != os.getpid() else 2])
    return spent


class Control:
    """The raw cost of being durable on this machine at this moment."""

    def __init__(self, connection: asyncpg.Connection, client: Redis) -> None:
        self._connection = connection
        self._client = client

    @classmethod
    @asynccontextmanager
    async def open(cls, made: Servers) -> AsyncIterator[Control]:
        """Connects both, with a table of its own."""
        async with made.postgres.superuser() as connection:
            await connection.execute(f"CREATE TABLE IF NOT EXISTS {_SCRATCH} (at timestamptz)")
            async with contextlib.aclosing(Redis.from_url(made.valkey.url, legacy_responses=False)) as client:
                yield cls(connection, client)

    async def read(self) -> dict[str, float]:
        """The median of a bare commit and of a bare XADD, in seconds."""
        commits = [await self._commit() for _ in range(_CONTROL_COMMITS)]
        xadds = [await self._xadd() for _ in range(_CONTROL_XADDS)]
        await self._client.delete(_SCRATCH)
        return {"commit": statistics.median(commits), "xadd": statistics.median(xadds)}

    async def _commit(self) -> float:
        started = time.perf_counter()
        await self._connection.execute(f"INSERT INTO {_SCRATCH} VALUES (now())")  # noqa: S608 - a constant
        return time.perf_counter() - started

    async def _xadd(self) -> float:
        started = time.perf_counter()
        await self._client.xadd(_SCRATCH, {"e": b"x" * 200}, maxlen=1000)
        return time.perf_counter() - started


def together(readings: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Readings in their order, by the control's name."""
    return {name: [reading[name] for reading in readings] for name in readings[0]} if readings else {}
