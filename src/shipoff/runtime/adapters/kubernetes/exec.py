"""Commands in a container that runs, through the API server's `exec`: a WebSocket with a channel for each stream.

The subprotocol is v5.channel.k8s.io (Kubernetes enhancement 4006): the first byte of a message is the channel, 255 closes one,
and the error channel ends with a Status. No signal can be sent that way: whoever leaves closes the streams.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from httpx2 import websockets

from shipoff.common.errors import Unavailable
from shipoff.runtime.adapters.feeds import Feed
from shipoff.runtime.adapters.kubernetes.api import Api
from shipoff.runtime.executions import Exited, Output

_INPUT, _STDOUT, _STDERR, _ERROR, _CLOSE = 0, 1, 2, 3, 255
_NAMES = {_STDOUT: "stdout", _STDERR: "stderr"}
_OPENS_WITHIN_S = 15.0
_ENDED_CODE, _NOT_STARTED_CODE, _INTERRUPTED_CODE = 124, 125, 130


@asynccontextmanager
async def executing(api: Api, pod: tuple[str, str], argv: Sequence[str], *, has_input: bool) -> AsyncIterator[Execution]:
    """The command in the pod (name, namespace), its streams open. Raises Unavailable when the API server opens none."""
    execution = Execution()
    opening = api.exec(*pod, argv, has_input=has_input)
    task = asyncio.create_task(execution.run(opening), name="command in a pod")
    try:
        await execution.opened(task)
        yield execution
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Execution:
    """`ports.Running` of a command in somebody else's container."""

    def __init__(self) -> None:
        self._feed = Feed()
        self._open = asyncio.Event()
        self._socket: Any = None
        self._left = asyncio.Event()
        self._told = Exited(_ENDED_CODE)

    async def run(self, opening: Any) -> None:
        """Reads the streams to their end; a task of its own, because a socket is closed by the task that opened it."""
        try:
            async with opening as self._socket:
                self._open.set()
                exited = await self._until_left()
        except (httpx2.HTTPError, websockets.HTTPXWSException) as error:
            if not self._open.is_set():
                raise Unavailable(f"the cluster opens no streams into the pod: {error}") from error
            exited = Exited(_NOT_STARTED_CODE, "the connection to the pod was lost")
        await self._feed.put(exited)

    async def opened(self, task: asyncio.Task[None]) -> None:
        """Waits until the streams are open."""
        waiting = asyncio.create_task(self._open.wait())
        try:
            await asyncio.wait({task, waiting}, timeout=_OPENS_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if task.done():
            task.result()
        elif not self._open.is_set():
            raise Unavailable("the cluster opens no streams into the pod")

    async def _until_left(self) -> Exited:
        """How the command ended, or why it was left."""
        pump, left = asyncio.create_task(self._pump()), asyncio.create_task(self._left.wait())
        try:
            await asyncio.wait({pump, left}, return_when=asyncio.FIRST_COMPLETED)
            return pump.result() if pump.done() else self._told
        finally:
            for task in (pump, left):
                task.cancel()
            await asyncio.gather(pump, left, return_exceptions=True)

    async def _pump(self) -> Exited:
        while True:
            message = await self._socket.receive_bytes()
            if not message:
                continue
            channel, data = message[0], message[1:]
            if channel == _ERROR:
                return exited(data)
            if channel in _NAMES and data:
                await self._feed.put(Output(_NAMES[channel], data))

    def events(self) -> AsyncGenerator[Output | Exited, None]:
        return self._feed.events()

    async def write(self, data: bytes) -> None:
        message = bytes((_INPUT,)) + data if data else bytes((_CLOSE, _INPUT))
        await self._send(message)

    async def interrupt(self) -> None:
        self._leave(Exited(_INTERRUPTED_CODE))

    async def end(self, reason: str) -> None:
        self._leave(Exited(_ENDED_CODE, reason))

    def _leave(self, told: Exited) -> None:
        self._told = told
        self._left.set()

    async def _send(self, message: bytes) -> None:
        try:
            await self._socket.send_bytes(message)
        except (httpx2.HTTPError, websockets.HTTPXWSException):
            return  # the command has ended: its exit is on the way


def exited(status: bytes) -> Exited:
    """How a command ended, by the Status on the error channel."""
    try:
        told = json.loads(status)
    except ValueError:
        return Exited(_NOT_STARTED_CODE, "the cluster said nothing of its end")
    if told.get("status") == "Success":
        return Exited(0)
    causes = (told.get("details") or {}).get("causes") or ()
    codes = [one.get("message", "") for one in causes if one.get("reason") == "ExitCode"]
    if told.get("reason") == "NonZeroExitCode" and codes and codes[0].isdecimal():
        return Exited(int(codes[0]))
    return Exited(_NOT_STARTED_CODE, str(told.get("message") or "it could not be started"))
