"""What every route may use. Built once by the composition root, found through the application's state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection

from shipoff.gateway.clients import Clients
from shipoff.gateway.limits import Buckets, DeliveryRoom, Slots
from shipoff.gateway.people import People
from shipoff.gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from shipoff.gateway.authentication import Authenticator


@dataclass(frozen=True)
class Gateway:
    settings: GatewaySettings
    clients: Clients
    authenticator: Authenticator
    anonymous: Buckets
    failures: Buckets
    deliveries: DeliveryRoom
    slots: Slots
    people: People


def gateway_of(connection: HTTPConnection) -> Gateway:
    """The gateway that serves this request."""
    gateway: Gateway = connection.app.state.gateway
    return gateway
