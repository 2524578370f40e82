"""CommandService over gRPC: contracts in, domain out, nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc.aio

from shipoff.common.errors import InvalidInput
from shipoff.contracts.runtime.v1 import commands_pb2, commands_pb2_grpc
from shipoff.runtime.commands import Commands
from shipoff.runtime.domain import Command, Exited, Output
from shipoff.runtime.ports import Running

_Context = grpc.aio.ServicerContext[Any, Any]


class CommandServer(commands_pb2_grpc.CommandServiceServicer):
    """The servicer."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    async def RunCommand(
        self, request_iterator: AsyncIterator[commands_pb2.RunCommandRequest], context: _Context
    ) -> AsyncIterator[commands_pb2.RunCommandResponse]:
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("part") != "start":
            raise InvalidInput("the first message says what to run", field="start")
        async with self._commands.running(first.start.deployment_id, command_of(first.start)) as running:
            feeding = asyncio.create_task(_feed(request_iterator, running), name="input of a command")
            try:
                yield commands_pb2.RunCommandResponse(started=True)
                async with aclosing(running.events()) as events:
                    async for event in events:
                        yield _response(event)
            finally:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)


def command_of(start: commands_pb2.CommandStart) -> Command:
    """The command that a caller asks for."""
    within = (start.within.process, start.within.index) if start.HasField("within") else None
    return Command(tuple(start.argv), float(start.time_limit_s), has_input=start.has_input, within=within)


async def _feed(requests: AsyncIterator[commands_pb2.RunCommandRequest], running: Running) -> None:
    async for request in requests:
        if request.WhichOneof("part") == "input":
            await running.write(request.input)
        elif request.interrupt:
            await running.interrupt()


def _response(event: Output | Exited) -> commands_pb2.RunCommandResponse:
    if isinstance(event, Output):
        return commands_pb2.RunCommandResponse(output=commands_pb2.CommandOutput(channel=event.channel, data=event.data))
    return commands_pb2.RunCommandResponse(exit=commands_pb2.CommandExit(code=event.code, reason=event.reason))
