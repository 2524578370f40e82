"""The platform itself: health, version, first setup."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter, Request

from shipoff.common.errors import Unauthenticated
from shipoff.common.ids import new_id
from shipoff.contracts.identity.v1 import identity_pb2
from shipoff.gateway import audit
from shipoff.gateway.access import Platform
from shipoff.gateway.edge import address_of
from shipoff.gateway.limits import too_many
from shipoff.gateway.models.accounts import SetupIn, SetupOut, TeamOut, user_out
from shipoff.gateway.models.running import HealthOut, InfoOut
from shipoff.gateway.routing import open_to_all

router = open_to_all("platform")
# Whoever watches the gateway is not to take it for dead because of its neighbours.
unlimited = APIRouter(tags=["platform"])


@unlimited.get("/healthz")
async def health() -> HealthOut:
    """The gateway answers."""
    return HealthOut()


@router.get("/v1/info")
async def info() -> InfoOut:
    """The platform's version."""
    return InfoOut(version=version("shipoff"))


@router.post("/v1/setup", status_code=201)
async def setup(body: SetupIn, request: Request, gateway: Platform) -> SetupOut:
    """Makes the first owner, once, for who has the setup token."""
    address = address_of(request)
    wait_s = gateway.failures.wait_s(address)
    if wait_s:
        raise too_many("too many wrong tokens", wait_s)
    try:
        made = await gateway.clients.identity.CreateFirstOwner(
            identity_pb2.CreateFirstOwnerRequest(
                setup_token=body.setup_token, email=body.email, name=body.name, team_name=body.team
            )
        )
    except Unauthenticated:
        gateway.failures.take(address)
        raise
    entry = identity_pb2.AuditEntry(
        id=new_id(), team_id=made.team.id, actor=made.user.id, action="platform.setup", object_id=made.team.id
    )
    await audit.append(gateway, entry)
    return SetupOut(user=user_out(made.user), team=TeamOut(id=made.team.id, name=made.team.name), token=made.secret)
