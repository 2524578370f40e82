"""Commands over the runtime's contract, as the gateway runs them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from neighbours.runtime import Ground

from shipoff.common.rpc import channel
from shipoff.contracts.runtime.v1 import commands_pb2, commands_pb2_grpc


@dataclass
class Said:
    """What a command has told so far."""

    stdout: str = ""
    stderr: str = ""
    exit: commands_pb2.CommandExit | None = None
    started: bool = False


@dataclass
class Session:
    """One command that runs."""

    said: Said = field(default_factory=Said)
    _requests: asyncio.Queue[commands_pb2.RunCommandRequest | None] = field(default_factory=asyncio.Queue)

    def send(self, data: bytes) -> None:
        """Gives it input; none: its input ends."""
        self._requests.put_nowait(commands_pb2.RunCommandRequest(input=data))

    def interrupt(self) -> None:
        self._requests.put_nowait(commands_pb2.RunCommandRequest(interrupt=True))

    async def requests(self, start: commands_pb2.CommandStart) -> AsyncIterator[commands_pb2.RunCommandRequest]:
        yield commands_pb2.RunCommandRequest(start=start)
        while (request := await self._requests.get()) is not None:
            yield request

    async def follow(self, responses: AsyncIterator[commands_pb2.RunCommandResponse]) -> None:
        async for response in responses:
            part = response.WhichOneof("part")
            if part == "output":
                text = response.output.data.decode()
                setattr(self.said, response.output.channel, getattr(self.said, response.output.channel) + text)
            elif part == "exit":
                self.said.exit = response.exit
            else:
                self.said.started = True


@asynccontextmanager
async def command(ground: Ground, deployment_id: str, *argv: str, **start: object) -> AsyncIterator[Session]:
    """The command beside the block; leaving it, the caller is gone. Raises what the call raised."""
    session = Session()
    message = commands_pb2.CommandStart(deployment_id=deployment_id, argv=argv, **{"time_limit_s": 60, **start})
    async with channel(ground.settings.listen) as ch:
        stub = commands_pb2_grpc.CommandServiceStub(ch)
        following = asyncio.create_task(session.follow(stub.RunCommand(session.requests(message), timeout=None)))
        try:
            yield session
            if not following.done():
                following.cancel()
        finally:
            results = await asyncio.gather(following, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]


async def ran(ground: Ground, deployment_id: str, *argv: str, **start: object) -> Said:
    """The command, run to its end."""
    session = Session()
    message = commands_pb2.CommandStart(deployment_id=deployment_id, argv=argv, **{"time_limit_s": 60, **start})
    async with channel(ground.settings.listen) as ch:
        stub = commands_pb2_grpc.CommandServiceStub(ch)
        await session.follow(stub.RunCommand(session.requests(message), timeout=None))
    return session.said
