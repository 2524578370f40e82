"""The WebSocket of a deployment's logs and states."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, Query, WebSocket

from shipoff.common.errors import PermissionDenied
from shipoff.gateway.access import Access, authenticate
from shipoff.gateway.authentication import Role, token_of
from shipoff.gateway.context import gateway_of
from shipoff.gateway.edge import address_of
from shipoff.gateway.models.running import LogSource, source_value
from shipoff.gateway.settings import GatewaySettings
from shipoff.gateway.streaming import Follow, Stream

router = APIRouter()


def check_origin(origin: str | None, host: str, settings: GatewaySettings) -> None:
    """Raises PermissionDenied for a page of another origin (RFC 6455, section 10.2). Programs send none."""
    if origin is None or origin in settings.allowed_origins:
        return
    parts = urlsplit(origin)
    if parts.scheme not in ("http", "https") or not host or parts.netloc.lower() != host.lower():
        raise PermissionDenied("this origin may not open streams", field="Origin")


@router.websocket("/v1/deployments/{deployment_id}/logs")
async def stream_logs(
    websocket: WebSocket,
    deployment_id: str,
    source: Annotated[list[LogSource] | None, Query(max_length=3)] = None,
    after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    until: Annotated[Literal["rest"] | None, Query()] = None,
) -> None:
    """Sends lines and states as they come, until the deployment rests."""
    gateway = gateway_of(websocket)
    check_origin(websocket.headers.get("origin"), websocket.headers.get("host", ""), gateway.settings)
    reach = Access(gateway, await authenticate(websocket))
    deployment = await reach.deployment(deployment_id, needs=Role.VIEWER)

    async def still_allowed() -> None:
        principal = await gateway.authenticator.principal(token_of(websocket), address=address_of(websocket))
        await Access(gateway, principal).deployment(deployment_id, needs=Role.VIEWER)

    follow = Follow(sources=[source_value(one) for one in source or []], after=after, until_rest=until == "rest")
    with gateway.slots.held(reach.principal.user_id):
        await websocket.accept()
        await Stream(gateway, websocket, deployment, follow, still_allowed).run()
