"""PostgreSQL on a Unix socket: one database and one role a service, each role shut out of the others' databases."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import asyncpg
import psutil

from shipoff.common.errors import Unavailable
from shipoff.embedded import binaries
from shipoff.embedded.layout import Account, Layout, make_data_folder, write_private
from shipoff.embedded.process import Child, Program, end, environment

# The services that store. Detector and gateway keep nothing.
SERVICES = ("identity", "project", "orchestrator", "build", "runtime", "log", "cdn", "worker")
SUPERUSER = "postgres"

_START_S = 60.0
_SETTINGS = {
    "listen_addresses": "''",
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
    # Sized for one small machine: the platform at rest has to fit in 600 MB, apps not counted.
    "max_connections": "120",
    "shared_buffers": "48MB",
    "work_mem": "4MB",
    "maintenance_work_mem": "32MB",
    "max_wal_size": "512MB",
    "huge_pages": "off",
    "io_method": "sync",
    "jit": "off",
    "max_worker_processes": "4",
    "max_parallel_workers_per_gather": "0",
    "autovacuum_max_workers": "2",
    "max_wal_senders": "2",
    "log_line_prefix": "'%m [%p] %u@%d '",
    "log_timezone": "UTC",
}
# For tests only: a crash of the machine may lose everything; a kill of the server loses nothing.
_RISKY = {"fsync": "off", "full_page_writes": "off"}


class Postgres:
    """The server and its databases."""

    name = "postgres"

    def __init__(
        self,
        layout: Layout,
        account: Account | None,
        passwords: Mapping[str, str],
        *,
        durable: bool = True,
        over_tcp: bool = False,
    ) -> None:
        """`passwords` by role: `postgres` and each of SERVICES. Not durable: fast, for tests.

        `over_tcp`: its own rules let services come from other machines; that it listens there is the caller's part.
        """
        self._layout = layout
        self._account = account
        self._passwords = passwords
        self._durable = durable
        self._over_tcp = over_tcp
        self._folder = layout.server(self.name)
        self._data = self._folder / "data"
        self._child: Child | None = None

    @property
    def child(self) -> Child | None:
        """The running server."""
        return self._child

    def url(self, service: str) -> str:
        """How a service connects to its own database."""
        return database_url(self._layout, service, self._passwords[service])

    async def start(self) -> None:
        """Starts the server and makes what is missing of the databases. Raises Unavailable when it does not come up."""
        programs = binaries.postgres(self._layout, self._account)
        await self._end_leftover()
        if not self._data.is_dir():
            await self._init(programs)
        self._configure()
        deadline = asyncio.get_running_loop().time() + _START_S
        while True:
            self._child = await Child.start(self._program())
            try:
                await self._until_ready(self._child, deadline)
                break
            except Unavailable:
                # Children of a killed postmaster hold its shared memory for a moment longer.
                if asyncio.get_running_loop().time() > deadline - _START_S + 10:
                    raise
                await asyncio.sleep(0.3)
        await self._make_databases()

    async def stop(self) -> None:
        """Ends sessions, writes a checkpoint and stops."""
        if self._child is not None:
            await self._child.stop()

    def command(self) -> tuple[str, ...]:
        """The server's program and its arguments."""
        programs = binaries.postgres(self._layout, self._account)
        return (str(programs / "postgres"), "-D", str(self._data), "-c", f"config_file={self._folder / 'postgresql.conf'}")

    def _program(self) -> Program:
        return Program(
            name=self.name,
            argv=self.command(),
            pid_file=self._layout.run / "postgres.pid",
            log_file=self._layout.log / "postgres.log",
            account=self._account,
            environment=environment(HOME=str(self._data)),
            # "Fast shutdown": sessions are ended, nothing is lost.
            stop_signal=signal.SIGINT,
        )

    async def _init(self, programs: Path) -> None:
        """Makes the data folder beside its place and moves it there when it is whole."""
        fresh = self._folder / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        make_data_folder(fresh, self._account)
        secret = self._folder / "superuser"
        write_private(secret, self._passwords[SUPERUSER], self._account)
        argv = [str(programs / "initdb"), "-D", str(fresh), "-U", SUPERUSER, f"--pwfile={secret}", "--encoding=UTF8"]
        argv += ["--auth=scram-sha-256", "--locale-provider=builtin", "--locale=C.UTF-8", "--no-instructions"]
        program = Program(
            name="initdb",
            argv=(*argv, *([] if self._durable else ["--no-sync"])),
            pid_file=self._layout.run / "initdb.pid",
            log_file=self._layout.log / "postgres.log",
            account=self._account,
            environment=environment(HOME=str(fresh)),
        )
        try:
            child = await Child.start(program)
            if await child.wait() != 0:
                child.check()
        finally:
            secret.unlink()
            program.pid_file.unlink(missing_ok=True)
        fresh.rename(self._data)

    def _configure(self) -> None:
        settings = {**_SETTINGS, **({} if self._durable else _RISKY)}
        settings["unix_socket_directories"] = _quoted(str(self._layout.sockets(self.name)))
        settings["hba_file"] = _quoted(str(self._folder / "pg_hba.conf"))
        write_private(
            self._folder / "postgresql.conf", "".join(f"{name} = {value}\n" for name, value in settings.items()), self._account
        )
        allowed = [f"local {name} {name} scram-sha-256\n" for name in SERVICES]
        if self._over_tcp:
            allowed += [f"host {name} {name} all scram-sha-256\n" for name in SERVICES]
        lines = [f"local all {SUPERUSER} scram-sha-256\n", *allowed, "local all all reject\n"]
        write_private(self._folder / "pg_hba.conf", "".join(lines), self._account)

    async def _end_leftover(self) -> None:
        """Stops a postmaster of this data folder, and its orphans; then its pid file is stale whoever has that pid now.

        PostgreSQL itself would refuse to start when any process got the pid that the file names.
        """
        for process in _in_folder(self._data):
            await end(process, number=signal.SIGINT, timeout_s=10)
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    async def _until_ready(self, child: Child, deadline: float) -> None:
        while True:
            try:
                async with self.superuser():
                    return
            except (OSError, asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError, TimeoutError) as error:
                child.check()
                if asyncio.get_running_loop().time() > deadline:
                    raise Unavailable(f"PostgreSQL does not answer after {_START_S:g} s: {error}") from error
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def superuser(self, database: str = "postgres") -> AsyncIterator[asyncpg.Connection]:
        """A connection that may do everything."""
        host = str(self._layout.sockets(self.name))
        connection = await asyncpg.connect(
            host=host, user=SUPERUSER, password=self._passwords[SUPERUSER], database=database, timeout=10
        )
        try:
            yield connection
        finally:
            await connection.close()

    async def _make_databases(self) -> None:
        """Roles, databases and their rights; repeats safely, and finishes what an earlier start began."""
        async with self.superuser() as connection:
            roles = {row["rolname"] for row in await connection.fetch("SELECT rolname FROM pg_roles")}
            databases = {row["datname"] for row in await connection.fetch("SELECT datname FROM pg_database")}
            for service in SERVICES:
                password = await connection.fetchval("SELECT quote_literal($1)", self._passwords[service])
                verb = "ALTER" if service in roles else "CREATE"
                await connection.execute(f'{verb} ROLE "{service}" LOGIN PASSWORD {password}')
                if service not in databases:
                    await connection.execute(f'CREATE DATABASE "{service}" OWNER "{service}"')
            for database in (*SERVICES, "postgres", "template1", "template0"):
                await connection.execute(f'REVOKE ALL ON DATABASE "{database}" FROM PUBLIC')


def database_url(layout: Layout, service: str, password: str) -> str:
    """The SQLAlchemy URL of a service's database."""
    return f"postgresql+asyncpg://{service}:{quote(password, safe='')}@/{service}?host={quote(str(layout.sockets('postgres')))}"


def _quoted(text: str) -> str:
    """As a value in postgresql.conf."""
    return "'" + text.replace("'", "''") + "'"


def _in_folder(data: Path) -> list[psutil.Process]:
    """PostgreSQL's processes of this data folder, the postmaster first: each of them works in it."""
    found = []
    for process in psutil.process_iter(["name", "cwd", "ppid"]):
        if process.info["cwd"] == os.fspath(data) and (process.info["name"] or "").startswith("postgres"):
            found.append(process)
    pids = {process.pid for process in found}
    return sorted(found, key=lambda process: process.info["ppid"] in pids)
