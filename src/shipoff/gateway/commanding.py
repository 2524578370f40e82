"""One WebSocket: a command in a release that is live, its input and its output, until it ends or the client leaves.

Leaving ends the command: the call to the runtime is cancelled with whoever serves the socket.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, cast

from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from shipoff.common.errors import InvalidInput, NotFound, PermissionDenied, ShipoffError, Unauthenticated
from shipoff.contracts.runtime.v1 import commands_pb2
from shipoff.gateway.context import Gateway
from shipoff.gateway.models.commands import CommandIn
from shipoff.gateway.problems import invalid, problem_of

_FIRST_MESSAGE_S = 10.0
_SEND_S = 30.0
_WAITING_REQUESTS = 16
_CHUNK_BYTES = 256 << 10
_CHANNELS = {"stdout": b"\x01", "stderr": b"\x02"}
# RFC 6455, section 7.4.1.
_NORMAL = 1000

Start = Callable[[CommandIn], Awaitable[str]]
_Request = commands_pb2.RunCommandRequest


class Left(Exception):
    """The client is gone, or reads nothing."""


class CommandSession:
    """Serves one accepted WebSocket. `begin` gives the deployment's id for what was asked, and writes it down."""

    def __init__(
        self, gateway: Gateway, websocket: WebSocket, begin: Start, still_allowed: Callable[[], Awaitable[None]]
    ) -> None:
        self._gateway = gateway
        self._websocket = websocket
        self._begin = begin
        self._still_allowed = still_allowed
        self._requests: asyncio.Queue[_Request] = asyncio.Queue(_WAITING_REQUESTS)

    async def run(self) -> None:
        """Returns when the command has ended, the client left, or it is not allowed any more."""
        try:
            asked = await self._first()
            await self._until_the_end(_start_of(asked, await self._begin(asked)))
        except ShipoffError as error:
            problem = problem_of(error).model_dump(exclude_none=True)
            with suppress(Left):
                await self._tell({"type": "error", "problem": problem})
        except Left:
            return
        with suppress(WebSocketDisconnect, RuntimeError):
            await self._websocket.close(_NORMAL)

    async def _first(self) -> CommandIn:
        """What is to be run. Raises InvalidInput, Left."""
        try:
            async with asyncio.timeout(_FIRST_MESSAGE_S):
                message = await self._receive()
        except TimeoutError as error:
            raise InvalidInput("nothing said what to run", field="command") from error
        try:
            return CommandIn.model_validate_json(message.get("text") or "")
        except ValidationError as error:
            violations = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
            raise invalid(violations) from error

    async def _until_the_end(self, start: commands_pb2.CommandStart) -> None:
        """Raises ShipoffError, Left."""
        tasks = [
            asyncio.create_task(self._follow(start), name="output of a command"),
            asyncio.create_task(self._listen(), name="input of a command"),
            asyncio.create_task(self._recheck(), name="right to a command"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _follow(self, start: commands_pb2.CommandStart) -> None:
        async with self._gateway.clients.commands() as stub:
            call = stub.RunCommand(self._sent(start), timeout=None)
            async with aclosing(cast(AsyncGenerator[commands_pb2.RunCommandResponse, None], call)) as responses:
                async for response in responses:
                    await self._pass_on(response)

    async def _sent(self, start: commands_pb2.CommandStart) -> AsyncIterator[_Request]:
        yield _Request(start=start)
        while True:
            yield await self._requests.get()

    async def _pass_on(self, response: commands_pb2.RunCommandResponse) -> None:
        part = response.WhichOneof("part")
        if part == "output":
            channel, data = _CHANNELS.get(response.output.channel, b"\x01"), response.output.data
            for at in range(0, len(data), _CHUNK_BYTES):
                await self._send(self._websocket.send_bytes(channel + data[at : at + _CHUNK_BYTES]))
        elif part == "exit":
            await self._tell({"type": "exit", "code": response.exit.code, "reason": response.exit.reason or None})
        else:
            await self._tell({"type": "started"})

    async def _listen(self) -> None:
        """What the client sends: bytes are input, texts say that it ends, or interrupt the command."""
        while True:
            message = await self._receive()
            data = message.get("bytes")
            if data:
                await self._requests.put(_Request(input=data))
                continue
            kind = _kind(message.get("text") or "")
            if kind == "input_end":
                await self._requests.put(_Request(input=b""))
            elif kind == "interrupt":
                await self._requests.put(_Request(interrupt=True))

    async def _recheck(self) -> None:
        """Raises when the token was revoked or the role taken since."""
        while True:
            await asyncio.sleep(self._gateway.settings.stream_recheck_s)
            try:
                await self._still_allowed()
            except (Unauthenticated, PermissionDenied, NotFound):
                raise
            except ShipoffError:
                # Nobody can tell just now: ask again later.
                continue

    async def _receive(self) -> dict[str, Any]:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise Left
        return dict(message)

    async def _tell(self, message: dict[str, Any]) -> None:
        await self._send(self._websocket.send_text(json.dumps(message, separators=(",", ":"))))

    @staticmethod
    async def _send(sending: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(_SEND_S):
                await sending
        except (TimeoutError, WebSocketDisconnect, OSError, RuntimeError) as error:
            raise Left from error


def _start_of(asked: CommandIn, deployment_id: str) -> commands_pb2.CommandStart:
    start = commands_pb2.CommandStart(
        deployment_id=deployment_id, argv=asked.command, time_limit_s=asked.time_limit_s, has_input=asked.has_input
    )
    if asked.instance is not None:
        start.within.CopyFrom(commands_pb2.CommandPlace(process=asked.instance.process, index=asked.instance.index))
    return start


def _kind(text: str) -> str:
    try:
        message = json.loads(text)
    except ValueError:
        return ""
    return str(message.get("type", "")) if isinstance(message, dict) else ""
