"""One of the servers that the platform stands on, alone: what the containers of a cluster run. Called by the verbs `backing`
and `migrate`.

The server takes this process's place, so that it gets the container's signals and nothing else is kept in memory.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from shipoff.common import config, postgres
from shipoff.common.errors import InvalidInput, PreconditionFailed, Unavailable
from shipoff.embedded import dumping, launch
from shipoff.embedded.caddy import Caddy
from shipoff.embedded.layout import Layout, backing_account, make_data_folder, prepare
from shipoff.embedded.postgres import SERVICES, SUPERUSER, Postgres
from shipoff.embedded.process import environment
from shipoff.embedded.valkey import Valkey

_AGAIN_S = 1.0


class BackingSettings(BaseSettings):
    """SHIPOFF_BACKING_…: what a server needs that runs alone."""

    model_config = SettingsConfigDict(env_prefix="SHIPOFF_BACKING_", frozen=True, extra="ignore", populate_by_name=True)

    # A folder with a file for each role, which holds its password: postgres, valkey, and each service that stores.
    passwords: Path = Path("/etc/shipoff/passwords")
    postgres_port: int = Field(default=5432, ge=1, le=65535)
    valkey_port: int = Field(default=6379, ge=1, le=65535)
    objects_port: int = Field(default=9000, ge=1, le=65535)
    http_port: int = Field(default=8080, ge=1, le=65535, validation_alias="SHIPOFF_HTTP_PORT")
    # The object store's bucket, made where it is missing, and whom it answers.
    bucket: str = Field(default="shipoff", pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
    access_key_id: str = Field(default="", validation_alias="SHIPOFF_OBJECTS_ACCESS_KEY_ID")
    secret_access_key: SecretStr = Field(default=SecretStr(""), validation_alias="SHIPOFF_OBJECTS_SECRET_ACCESS_KEY")


class _DatabaseUrls(BaseSettings):
    """SHIPOFF_<SERVICE>_DATABASE_URL."""

    model_config = SettingsConfigDict(env_prefix="SHIPOFF_", frozen=True, extra="ignore")

    identity_database_url: str = ""
    project_database_url: str = ""
    orchestrator_database_url: str = ""
    build_database_url: str = ""
    runtime_database_url: str = ""
    log_database_url: str = ""
    cdn_database_url: str = ""
    worker_database_url: str = ""


async def migrate(names: Sequence[str], *, wait_s: float) -> list[str]:
    """Brings these services' databases to the newest schema, all where none is named; their names.

    Raises InvalidInput for one that stores nothing or has no database in the settings, Unavailable when a database does not
    answer within `wait_s`.
    """
    if unknown := sorted(set(names) - set(SERVICES)):
        raise InvalidInput(f"{unknown[0]!r} has no database", field="SERVICE", remedy=f"one of: {', '.join(SERVICES)}")
    urls = config.load(_DatabaseUrls)
    chosen = [name for name in SERVICES if name in names or not names]
    deadline = asyncio.get_running_loop().time() + wait_s
    for name in chosen:
        url: str = getattr(urls, f"{name}_database_url")
        if not url:
            setting = f"SHIPOFF_{name.upper()}_DATABASE_URL"
            raise InvalidInput(f"{setting} is not set", field=setting, remedy="set it to the service's own database")
        await _migrate(name, url, deadline)
    return chosen


async def _migrate(name: str, url: str, deadline: float) -> None:
    while True:
        try:
            return await postgres.migrate(name, url)
        except Unavailable:
            if asyncio.get_running_loop().time() >= deadline:
                raise
        await asyncio.sleep(_AGAIN_S)


def perform(name: str) -> None:
    """Becomes a server, or dumps or restores PostgreSQL's databases beside it. Raises as `become`, and as dumping.py."""
    if name not in _TASKS:
        become(name)
    settings = config.load(BackingSettings)
    _TASKS[name](Layout(config.home()), settings.postgres_port, _password(settings, SUPERUSER))


def become(name: str) -> NoReturn:
    """Prepares the data folder and takes the place of this process. Raises InvalidInput for an unknown server.

    Raises PreconditionFailed for a password that is missing, Unavailable when PostgreSQL cannot be prepared.
    """
    if name not in _SERVERS:
        raise InvalidInput(f"there is no server {name!r}", field="server", remedy=f"one of: {', '.join((*_SERVERS, *_TASKS))}")
    layout = Layout(config.home())
    prepare(layout, backing_account())
    argv, environ = _SERVERS[name](layout, config.load(BackingSettings))
    account = backing_account()
    if account is not None:
        # Signal 0: it ends when it is told to, not with who started this.
        argv = [sys.executable, "-I", "-S", launch.__file__, str(account.uid), str(account.gid), "0", "0", *argv]
    os.execve(argv[0], list(argv), dict(environ))  # noqa: S606


def _password(settings: BackingSettings, role: str) -> str:
    path = settings.passwords / role
    try:
        return path.read_text().strip()
    except OSError as error:
        remedy = f"put it into {path}, or name another folder with SHIPOFF_BACKING_PASSWORDS"
        raise PreconditionFailed(
            f"there is no password for {role}", field="SHIPOFF_BACKING_PASSWORDS", remedy=remedy
        ) from error


Command = tuple[Sequence[str], Mapping[str, str]]


def _postgres(layout: Layout, settings: BackingSettings) -> Command:
    """Its databases are made at its socket first: nobody meets a server without them."""
    passwords = {role: _password(settings, role) for role in (SUPERUSER, *SERVICES)}
    server = Postgres(layout, backing_account(), passwords, over_tcp=True)

    async def make() -> None:
        try:
            await server.start()
        finally:
            await server.stop()

    asyncio.run(make())
    listening = ("-c", "listen_addresses=*", "-c", f"port={settings.postgres_port}")
    return (*server.command(), *listening), environment(HOME=str(layout.server(server.name)))


def _valkey(layout: Layout, settings: BackingSettings) -> Command:
    server = Valkey(layout, backing_account(), _password(settings, "valkey"), port=settings.valkey_port)
    return server.command(), environment(HOME=str(server.data))


def _caddy(layout: Layout, settings: BackingSettings) -> Command:
    """With the routes it had: the cdn beside it loads newer ones as soon as it looks."""
    server = Caddy(layout, backing_account(), settings.http_port)
    return server.command(resume=True), server.environment


def _objects(layout: Layout, settings: BackingSettings) -> Command:
    """rclone serves a folder as S3 (https://rclone.org/commands/rclone_serve_s3/): the bucket is a folder in it."""
    program = Path(sys.executable).parent / "rclone"
    if not program.is_file():
        raise PreconditionFailed("rclone is not installed", remedy="use the platform's image, which has it")
    if not settings.access_key_id or not settings.secret_access_key.get_secret_value():
        field = "SHIPOFF_OBJECTS_ACCESS_KEY_ID"
        raise PreconditionFailed("the object store needs a key", field=field, remedy="set it, and …_SECRET_ACCESS_KEY")
    root = layout.server("s3")
    for folder in (root, root / settings.bucket):
        make_data_folder(folder, backing_account())
    argv = (str(program), "serve", "s3", "--addr", f":{settings.objects_port}", "--config", "/dev/null")
    # One field of a list with commas (RFC 4180).
    secret = settings.secret_access_key.get_secret_value().replace('"', '""')
    key = f'"{settings.access_key_id},{secret}"'
    # In the environment: arguments are seen by every account of the machine.
    return (*argv, str(root)), environment(HOME=str(root), RCLONE_AUTH_KEY=key)


_TASKS: Mapping[str, Callable[[Layout, int, str], None]] = {"dump": dumping.dump, "restore": dumping.restore}
_SERVERS: Mapping[str, Callable[[Layout, BackingSettings], Command]] = {
    "postgres": _postgres,
    "valkey": _valkey,
    "caddy": _caddy,
    "objects": _objects,
}
