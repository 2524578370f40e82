"""The gateway's composition root."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from shipoff.common.config import address, load
from shipoff.common.rpc import serving
from shipoff.contracts.gateway.v1 import gateway_pb2_grpc
from shipoff.gateway.app import create_app
from shipoff.gateway.authentication import Authenticator
from shipoff.gateway.clients import Clients, connected
from shipoff.gateway.context import Gateway
from shipoff.gateway.limits import Buckets, DeliveryRoom, Slots
from shipoff.gateway.people import People
from shipoff.gateway.server import GatewayServer
from shipoff.gateway.settings import GatewaySettings
from shipoff.gateway.web import serving_http


def build(settings: GatewaySettings, clients: Clients) -> Gateway:
    """Puts the parts together."""
    failures = Buckets(per_s=settings.failures_per_s, burst=settings.failures_burst)
    users = Buckets(per_s=settings.user_per_s, burst=settings.user_burst)
    return Gateway(
        settings=settings,
        clients=clients,
        authenticator=Authenticator(clients.identity, cache_s=settings.authentication_cache_s, users=users, failures=failures),
        anonymous=Buckets(per_s=settings.anonymous_per_s, burst=settings.anonymous_burst),
        failures=failures,
        deliveries=DeliveryRoom(
            Buckets(per_s=settings.webhook_per_s, burst=settings.webhook_burst), at_once=settings.webhooks_at_once
        ),
        slots=Slots(each=settings.streams_per_user, in_all=settings.streams_in_all),
        people=People(clients, settings),
    )


@asynccontextmanager
async def running(
    settings: GatewaySettings | None = None, *, address_of: Callable[[str], str] = address
) -> AsyncIterator[None]:
    """Runs the service until the context is left; then finishes the requests under way."""
    settings = settings or load(GatewaySettings)
    registration = (gateway_pb2_grpc.add_GatewayServiceServicer_to_server, GatewayServer())
    async with connected(address_of) as clients:
        app = create_app(build(settings, clients), proxies=settings.proxies)
        async with (
            serving(settings.listen or address_of("gateway"), [registration]),
            serving_http(app, settings),
        ):
            yield
