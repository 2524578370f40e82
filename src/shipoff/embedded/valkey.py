"""Valkey on a Unix socket, with its append-only file."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from urllib.parse import quote

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from shipoff.common.errors import Unavailable
from shipoff.embedded import binaries
from shipoff.embedded.layout import Account, Layout, make_data_folder, write_private
from shipoff.embedded.process import Child, Program, environment

_START_S = 30.0


class Valkey:
    """The server."""

    name = "valkey"

    def __init__(self, layout: Layout, account: Account | None, password: str, *, port: int = 0) -> None:
        """`port`: where it answers over TCP besides its socket; 0: nowhere."""
        self._layout = layout
        self._account = account
        self._password = password
        self._port = port
        self._folder = layout.server(self.name)
        self._socket = layout.sockets(self.name) / "valkey.sock"
        self._child: Child | None = None

    @property
    def child(self) -> Child | None:
        """The running server."""
        return self._child

    @property
    def url(self) -> str:
        """How services connect."""
        return redis_url(self._layout, self._password)

    @property
    def data(self) -> Path:
        """Its append-only file's folder."""
        return self._folder / "data"

    async def start(self) -> None:
        """Starts it and waits until it has read its data. Raises Unavailable when it does not come up."""
        program = Program(
            name=self.name,
            argv=self.command(),
            pid_file=self._layout.run / "valkey.pid",
            log_file=self._layout.log / "valkey.log",
            account=self._account,
            environment=environment(HOME=str(self.data)),
        )
        self._child = await Child.start(program)
        await self._until_ready(self._child)

    async def stop(self) -> None:
        """Writes what it has and stops."""
        if self._child is not None:
            await self._child.stop()

    def command(self) -> tuple[str, ...]:
        """The server's program and its arguments, with the configuration that they name written anew."""
        make_data_folder(self.data, self._account)
        self._configure()
        return (str(binaries.valkey(self._layout, self._account)), str(self._folder / "valkey.conf"))

    def _configure(self) -> None:
        settings = {
            "port": str(self._port),
            **({"bind": "* -::*"} if self._port else {}),
            "unixsocket": f'"{self._socket}"',
            "unixsocketperm": "700",
            "requirepass": self._password,
            "dir": f'"{self.data}"',
            "appendonly": "yes",
            # A crash of the machine loses a second of messages; the outboxes publish them again.
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "save": '""',
            "hz": "5",
            "logfile": '""',
        }
        write_private(
            self._folder / "valkey.conf", "".join(f"{name} {value}\n" for name, value in settings.items()), self._account
        )

    async def _until_ready(self, child: Child) -> None:
        deadline = asyncio.get_running_loop().time() + _START_S
        # The driver's own retries would wait for seconds.
        once = Retry(NoBackoff(), 0)
        async with contextlib.aclosing(
            Redis.from_url(self.url, socket_timeout=2, retry=once, legacy_responses=False)
        ) as client:
            while True:
                try:
                    await client.ping()
                    return
                except (RedisError, OSError) as error:
                    child.check()
                    if asyncio.get_running_loop().time() > deadline:
                        raise Unavailable(f"Valkey does not answer after {_START_S:g} s: {error}") from error
                await asyncio.sleep(0.02)


def redis_url(layout: Layout, password: str) -> str:
    """The URL of the server's socket."""
    return f"unix://:{quote(password, safe='')}@{quote(str(layout.sockets('valkey') / 'valkey.sock'))}"
