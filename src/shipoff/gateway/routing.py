"""What happens before a route's own code: authentication, then the body within bounds. A router picks one of the classes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Security
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from shipoff.gateway.access import admit_anonymous, admit_delivery, authenticate, bearer
from shipoff.gateway.bodies import declared_bytes, whole, with_body, with_json
from shipoff.gateway.context import gateway_of
from shipoff.gateway.edge import address_of

_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


async def _bounded(request: Request) -> Request:
    settings = gateway_of(request).settings
    return await with_json(request, limit_bytes=settings.json_limit_bytes, timeout_s=settings.body_timeout_s)


class OpenRoute(APIRoute):
    """Needs no token; limited by address."""

    def get_route_handler(self) -> _Handler:
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            admit_anonymous(request)
            return await inner(await _bounded(request))

        return handle


class DeliveryRoute(APIRoute):
    """Is signed instead of having a token; limited by address, but for bursts.

    Those wait in line here, before anything is made of them but their bytes: so many at once would hold up everybody else.
    """

    def get_route_handler(self) -> _Handler:
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            admit_delivery(request)
            gateway = gateway_of(request)
            limit_bytes, timeout_s = gateway.settings.webhook_limit_bytes, gateway.settings.body_timeout_s
            async with gateway.deliveries.reading(address_of(request), declared_bytes(request, limit_bytes)):
                read = with_body(request, await whole(request, limit_bytes=limit_bytes, timeout_s=timeout_s))
                async with gateway.deliveries.turn():
                    return await inner(read)

        return handle


class GuardedRoute(APIRoute):
    """Needs a token, before a byte of the body is read."""

    def get_route_handler(self) -> _Handler:
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            request.state.principal = await authenticate(request)
            return await inner(await _bounded(request))

        return handle


class LargeGuardedRoute(APIRoute):
    """Needs a token; its JSON body may be as large as a snapshot of a source."""

    def get_route_handler(self) -> _Handler:
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            request.state.principal = await authenticate(request)
            settings = gateway_of(request).settings
            limit = settings.snapshot_limit_bytes
            return await inner(await with_json(request, limit_bytes=limit, timeout_s=settings.body_timeout_s))

        return handle


class RawGuardedRoute(APIRoute):
    """Needs a token and reads its body itself."""

    def get_route_handler(self) -> _Handler:
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            request.state.principal = await authenticate(request)
            return await inner(request)

        return handle


def guarded(tag: str, *, raw: bool = False, large: bool = False) -> APIRouter:
    """A router whose routes need a token."""
    route_class = RawGuardedRoute if raw else LargeGuardedRoute if large else GuardedRoute
    return APIRouter(tags=[tag], route_class=route_class, dependencies=[Security(bearer)])


def open_to_all(tag: str) -> APIRouter:
    """A router whose routes need none."""
    return APIRouter(tags=[tag], route_class=OpenRoute)


def signed(tag: str) -> APIRouter:
    """A router for deliveries, which their signature tells of."""
    return APIRouter(tags=[tag], route_class=DeliveryRoute)
