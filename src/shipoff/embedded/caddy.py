"""Caddy, the edge: the only server that listens on a TCP port. It is only started here; its routes are the cdn service's."""

from __future__ import annotations

import asyncio
import json

import httpx2

from shipoff.common.errors import Unavailable
from shipoff.embedded import binaries
from shipoff.embedded.layout import Account, Layout, make_data_folder, write_private
from shipoff.embedded.process import Child, Program, environment

_START_S = 30.0


class Caddy:
    """The server, controlled over its admin socket."""

    name = "caddy"

    def __init__(self, layout: Layout, account: Account | None, http_port: int) -> None:
        self._layout = layout
        self._account = account
        self._http_port = http_port
        self._folder = layout.server(self.name)
        self._admin = layout.sockets(self.name) / "admin.sock"
        self._child: Child | None = None
        self._started_before = False

    @property
    def child(self) -> Child | None:
        """The running server."""
        return self._child

    async def start(self) -> None:
        """Starts it with a page that says "starting" until routes are loaded; started again, it resumes the last routes.

        Raises Unavailable when it does not come up.
        """
        program = Program(
            name=self.name,
            # Only after a death below this platform: an earlier platform's routes lead nowhere.
            argv=self.command(resume=self._started_before),
            pid_file=self._layout.run / "caddy.pid",
            log_file=self._layout.log / "caddy.log",
            account=self._account,
            environment=self.environment,
            stop_timeout_s=5.0,
        )
        self._child = await Child.start(program)
        await self._until_ready(self._child)
        self._started_before = True

    def command(self, *, resume: bool) -> tuple[str, ...]:
        """The server's program and its arguments; the page that says "starting" is written, the former socket removed.

        `resume`: with the last routes that it had, where it had any.
        """
        make_data_folder(self._folder / "data", self._account)
        config = self._folder / "initial.json"
        write_private(config, json.dumps(_initial_config(self._admin, self._http_port)), self._account)
        self._admin.unlink(missing_ok=True)
        argv = (str(binaries.caddy(self._layout, self._account)), "run", "--config", str(config))
        return (*argv, *(["--resume"] if resume else []))

    @property
    def environment(self) -> dict[str, str]:
        """What it is run with."""
        data = str(self._folder / "data")
        # CADDY_ADMIN: a configuration without an admin part must not open the default TCP port.
        return environment(HOME=data, XDG_DATA_HOME=data, XDG_CONFIG_HOME=data, CADDY_ADMIN=f"unix/{self._admin}")

    async def stop(self) -> None:
        """Ends connections and stops."""
        if self._child is not None:
            await self._child.stop()

    async def _until_ready(self, child: Child) -> None:
        deadline = asyncio.get_running_loop().time() + _START_S
        async with httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(uds=str(self._admin)), timeout=2) as client:
            while True:
                try:
                    (await client.get("http://caddy/config/")).raise_for_status()
                    return
                except httpx2.HTTPError as error:
                    child.check()
                    if asyncio.get_running_loop().time() > deadline:
                        raise Unavailable(f"Caddy does not answer after {_START_S:g} s: {error}") from error
                await asyncio.sleep(0.02)


def _initial_config(admin: object, http_port: int) -> dict[str, object]:
    starting = {
        "handler": "static_response",
        "status_code": 503,
        "headers": {"Retry-After": ["2"]},
        "body": "Shipoff is starting.\n",
    }
    server = {"listen": [f":{http_port}"], "routes": [{"handle": [starting]}], "automatic_https": {"disable": True}}
    return {
        "admin": {"listen": f"unix/{admin}", "config": {"persist": True}},
        "apps": {"http": {"servers": {"edge": server}}},
    }
