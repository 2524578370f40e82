"""Identity on a real database, called through its gRPC stub."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from shipoff.common.postgres import Database
from shipoff.common.rpc import channel
from shipoff.contracts.identity.v1 import identity_pb2 as pb
from shipoff.contracts.identity.v1.identity_pb2_grpc import IdentityServiceStub
from shipoff.identity.main import running
from shipoff.identity.settings import IdentitySettings

SETUP_TOKEN = "the-one-time-setup-token"


@dataclass
class Rig:
    stub: IdentityServiceStub
    database: Database

    async def first_owner(self, *, email: str = "ada@example.com", team: str = "acme") -> pb.CreateFirstOwnerResponse:
        return await self.stub.CreateFirstOwner(
            pb.CreateFirstOwnerRequest(setup_token=SETUP_TOKEN, email=email, name="Ada", team_name=team)
        )


@pytest.fixture
async def identity(database_url_for: Callable[[str], Awaitable[str]], shipoff_home: Path) -> AsyncIterator[Rig]:
    url = await database_url_for("identity")
    listen = f"unix:{shipoff_home}/identity-test.sock"
    settings = IdentitySettings(database_url=url, listen=listen, SHIPOFF_SETUP_TOKEN=SETUP_TOKEN)
    async with running(settings), channel(listen) as ch, Database.open(url) as database:
        yield Rig(IdentityServiceStub(ch), database)
