"""The WebSocket of a command in what is live."""

from __future__ import annotations

import shlex

from fastapi import APIRouter, WebSocket

from shipoff.common.errors import NotFound
from shipoff.contracts.types.v1 import types_pb2
from shipoff.gateway import audit
from shipoff.gateway.access import Access, authenticate
from shipoff.gateway.authentication import Role, token_of
from shipoff.gateway.commanding import CommandSession
from shipoff.gateway.context import gateway_of
from shipoff.gateway.deploying import newest
from shipoff.gateway.edge import address_of
from shipoff.gateway.models.commands import CommandIn
from shipoff.gateway.models.common import EnvironmentQuery
from shipoff.gateway.routes.stream import check_origin

router = APIRouter()

_LONGEST_DETAIL = 500


@router.websocket("/v1/projects/{project}/commands")
async def run_command(websocket: WebSocket, project: str, environment: EnvironmentQuery = "production") -> None:
    """Runs a command in what is live. The first message says which; then input and output follow as they come.

    Bytes are the command's input; `{"type": "input_end"}` ends that, `{"type": "interrupt"}` is Ctrl-C. Sent are `started`,
    bytes (1 for standard output or 2 for standard error, then what was written), and at last `exit` or `error`.
    """
    gateway = gateway_of(websocket)
    check_origin(websocket.headers.get("origin"), websocket.headers.get("host", ""), gateway.settings)
    reach = Access(gateway, await authenticate(websocket))
    found = await reach.project(project, needs=Role.DEVELOPER)

    async def still_allowed() -> None:
        principal = await gateway.authenticator.principal(token_of(websocket), address=address_of(websocket))
        await Access(gateway, principal).project(found.id, needs=Role.DEVELOPER)

    async def begin(asked: CommandIn) -> str:
        live = await newest(gateway, found.id, environment, state=types_pb2.DEPLOYMENT_STATE_PRODUCTION)
        if live is None:
            raise NotFound(f"nothing of {found.name} is live in {environment}", remedy="deploy it: shipoff deploy")
        detail = f"{environment}: {shlex.join(asked.command)}"[:_LONGEST_DETAIL]
        action = "command.run" if asked.instance is None else "command.exec"
        await audit.record(reach, action, team_id=found.team_id, object_id=live.id, detail=detail)
        return live.id

    with gateway.slots.held(reach.principal.user_id):
        await websocket.accept()
        await CommandSession(gateway, websocket, begin, still_allowed).run()
