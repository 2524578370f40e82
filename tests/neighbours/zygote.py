"""Real processes of a service that start fast: a parent has imported everything and forks for each.

Run as a program it is that parent: one JSON line in for each child ({"service", "environment"}), lines out that say what
became of it: {"pid", "event": "forked" | "serving" | "ended"}.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Child:
    """A process of a service."""

    pid: int
    serving: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def send_signal(self, number: int) -> None:
        """Signals it, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            if not self.ended.is_set():
                os.kill(self.pid, number)

    async def kill(self) -> None:
        """`kill -9`, and waits until it is gone."""
        self.send_signal(signal.SIGKILL)
        await self.ended.wait()


class Zygote:
    """The parent, as a test sees it. `environment` is what all children have in common."""

    def __init__(self, service: str, environment: dict[str, str]) -> None:
        self._service = service
        self._environment = environment
        self._children: dict[int, Child] = {}
        self._forked: asyncio.Queue[Child] = asyncio.Queue()

    async def __aenter__(self) -> Zygote:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__)),
            self._service,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        for child in self._children.values():
            child.send_signal(signal.SIGCONT)
            await child.kill()
        self._process.kill()
        await self._process.wait()
        await self._reading

    async def start(self, **environment: str) -> Child:
        """Forks a child and waits until it serves."""
        order = {"environment": self._environment | environment}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        child = await asyncio.wait_for(self._forked.get(), 60)
        serving, ended = asyncio.create_task(child.serving.wait()), asyncio.create_task(child.ended.wait())
        await asyncio.wait({serving, ended}, return_when=asyncio.FIRST_COMPLETED, timeout=60)
        serving.cancel()
        ended.cancel()
        assert child.serving.is_set(), "the process did not start"
        return child

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            message = json.loads(line)
            if message["event"] == "forked":
                self._children[message["pid"]] = Child(message["pid"])
                self._forked.put_nowait(self._children[message["pid"]])
            elif message["event"] == "serving":
                self._children[message["pid"]].serving.set()
            else:
                self._children[message["pid"]].ended.set()


def _say(pid: int, event: str) -> None:
    os.write(1, json.dumps({"pid": pid, "event": event}).encode() + b"\n")


def _reap(*_: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            _say(ended[0], "ended")


def _jumping_clock(seconds: float) -> None:
    """At SIGUSR2 the wall clock of Shipoff's own code jumps; before that it is right. The monotonic clock never jumps.

    Only our modules' names for the clock are replaced. Libraries keep the host's: gRPC adds a time-out to `time.time()` in
    Python and takes the sum apart in C, by the clock of the host, which on a host that jumps is the same one on both sides.
    """
    import datetime as datetime_module
    import time
    import types

    jumped = [0.0]
    real = datetime_module.datetime

    class Shifted(real):
        @classmethod
        def now(cls, tz: datetime_module.tzinfo | None = None) -> datetime_module.datetime:
            return real.fromtimestamp(time.time() + jumped[0], tz)

    clock = types.SimpleNamespace(**vars(time))
    clock.time = lambda: time.time() + jumped[0]
    clock.time_ns = lambda: int(clock.time() * 1e9)
    for name, module in list(sys.modules.items()):
        if name.startswith("shipoff."):
            for attribute, mine, theirs in (("datetime", Shifted, real), ("time", clock, time)):
                if getattr(module, attribute, None) is theirs:
                    setattr(module, attribute, mine)
    signal.signal(signal.SIGUSR2, lambda *_: jumped.__setitem__(0, seconds))


def _child(service: str, environment: dict[str, str]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.update(environment)
    if jump := float(environment.get("CLOCK_JUMPS_BY_S", "0")):
        _jumping_clock(jump)
    import importlib

    import uvloop

    from shipoff.common import failpoints
    from shipoff.common.lifecycle import until_signal
    from shipoff.common.telemetry import configure_logging

    importlib.reload(failpoints)
    configure_logging()
    main = importlib.import_module(f"shipoff.{service}.main")
    options = _options(service)

    async def serve() -> None:
        async with main.running(**options):
            _say(os.getpid(), "serving")
            await until_signal()

    uvloop.run(serve())


def _options(service: str) -> dict[str, object]:
    """The runtime in its tests looks, waits and gives up sooner."""
    if service != "runtime":
        return {}
    from neighbours.runtime import QUICK

    return {"policy": QUICK}


def _main(service: str) -> None:
    import importlib

    _options(service)

    importlib.import_module(f"shipoff.{service}.main")
    importlib.import_module("uvloop")
    signal.signal(signal.SIGCHLD, _reap)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _child(service, json.loads(line)["environment"])
            os._exit(0)
        _say(pid, "forked")


if __name__ == "__main__":
    _main(sys.argv[1])
