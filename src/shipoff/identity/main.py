"""Identity's composition root."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shipoff.common.config import address, load
from shipoff.common.postgres import Database, migrate
from shipoff.common.rpc import serving
from shipoff.contracts.identity.v1 import identity_pb2_grpc
from shipoff.identity.adapters.postgres import PostgresStore
from shipoff.identity.handlers import Accounts
from shipoff.identity.server import IdentityServer
from shipoff.identity.settings import IdentitySettings


@asynccontextmanager
async def running(settings: IdentitySettings | None = None) -> AsyncIterator[None]:
    """Runs the service until the context is left; then finishes the calls under way."""
    settings = settings or load(IdentitySettings)
    await migrate("identity", settings.database_url)
    pools = {"pool_size": settings.pool_size, "read_pool_size": settings.read_pool_size}
    async with Database.open(settings.database_url, **pools) as database:
        accounts = Accounts(
            PostgresStore(database), setup_token=settings.setup_token.get_secret_value(), token_days=settings.token_days
        )
        server = IdentityServer(accounts)
        listen = settings.listen or address("identity")
        async with serving(listen, [(identity_pb2_grpc.add_IdentityServiceServicer_to_server, server)]):
            yield
