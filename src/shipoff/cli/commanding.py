"""A command over its WebSocket: input from here, output to here, Ctrl-C passed on. Used by `run` and `exec`."""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection

from shipoff.cli.client import Api, Json
from shipoff.cli.errors import ExitCode, Unreachable
from shipoff.cli.output import Output
from shipoff.cli.sockets import opened

# The platform takes messages of 16 KiB.
_INPUT_BYTES = 12 << 10
_LOST = "the connection was lost, and the command ended with it"


def follow(api: Api, path: str, asked: Json, output: Output) -> int:
    """Runs it to its end; its exit code, 130 when it was interrupted twice. Raises Failure, Unreachable."""
    try:
        with opened(api, path) as socket:
            socket.send(json.dumps(asked))
            if asked["has_input"]:
                threading.Thread(target=_pass_input_on, args=(socket,), daemon=True).start()
            return _until_the_end(api, socket, output)
    except InvalidStatus as error:
        api.refuse(error.response.status_code, bytes(error.response.body or b""))
    except (WebSocketException, OSError) as error:
        raise Unreachable(_LOST, remedy="run it again") from error


def _until_the_end(api: Api, socket: ClientConnection, output: Output) -> int:
    interrupted = False
    while True:
        try:
            message = socket.recv()
        except KeyboardInterrupt:
            if interrupted:
                return int(ExitCode.INTERRUPTED)
            interrupted = True
            socket.send(json.dumps({"type": "interrupt"}))
            continue
        except ConnectionClosed as error:
            raise Unreachable(_LOST, remedy="run it again") from error
        if isinstance(message, bytes):
            _show(message, output)
            continue
        told: Json = json.loads(message)
        if told["type"] == "exit":
            if told.get("reason"):
                output.note(str(told["reason"]))
            output.data(told)
            return int(told["code"])
        if told["type"] == "error":
            problem: dict[str, Any] = told["problem"]
            api.refuse(int(problem["status"]), json.dumps(problem).encode())


def _show(message: bytes, output: Output) -> None:
    """As it is, so that it can be piped; with --json as text."""
    name, data = ("stderr" if message[:1] == b"\x02" else "stdout"), message[1:]
    if output.as_json:
        output.data({"type": "output", "channel": name, "text": data.decode(errors="replace")})
        return
    stream = sys.stderr if name == "stderr" else sys.stdout
    stream.flush()
    stream.buffer.write(data)
    stream.buffer.flush()


def _pass_input_on(socket: ClientConnection) -> None:
    try:
        while data := os.read(0, _INPUT_BYTES):
            socket.send(data)
        socket.send(json.dumps({"type": "input_end"}))
    except (OSError, WebSocketException):
        # The command has ended, and whoever follows it says so.
        return
