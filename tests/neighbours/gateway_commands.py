"""The runtime's commands behind a gateway, scripted: `echo …`, `cat`, `wait` (until it is interrupted), `exit N`, `refuse`."""

from __future__ import annotations

import asyncio
from typing import Any

from shipoff.common.errors import Exhausted
from shipoff.contracts.runtime.v1 import commands_pb2, commands_pb2_grpc

Response = commands_pb2.RunCommandResponse


class Commands(commands_pb2_grpc.CommandServiceServicer):
    """Notes each start in `world.commands`, and those that run in `world.streams_open`."""

    def __init__(self, world: Any) -> None:
        self._world = world

    async def RunCommand(self, request_iterator: Any, context: Any) -> Any:
        start = (await anext(request_iterator)).start
        self._world.commands.append(start)
        program, *arguments = start.argv
        if program == "refuse":
            raise Exhausted("too many commands run at the same time", remedy="wait until one has ended")
        self._world.streams_open.add("command")
        try:
            yield Response(started=True)
            if program == "echo":
                yield _wrote("stdout", " ".join(arguments) + "\n")
                yield _wrote("stderr", "oh\n")
            elif program == "cat":
                while data := (await anext(request_iterator)).input:
                    yield _wrote("stdout", data.decode())
            elif program == "wait":
                assert (await anext(request_iterator)).interrupt
                yield _wrote("stdout", "interrupted\n")
            elif program == "hang":
                await asyncio.Event().wait()
            code = int(arguments[0]) if program == "exit" else 0
            yield Response(exit=commands_pb2.CommandExit(code=code, reason="it took longer" if code == 124 else ""))
        finally:
            self._world.streams_open.discard("command")


def _wrote(channel: str, text: str) -> commands_pb2.RunCommandResponse:
    return Response(output=commands_pb2.CommandOutput(channel=channel, data=text.encode()))


def commands_of(world: Any) -> tuple[Any, object]:
    """How the server registers it."""
    return commands_pb2_grpc.add_CommandServiceServicer_to_server, Commands(world)
