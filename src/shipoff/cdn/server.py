"""CdnService: gRPC ↔ domain."""

from __future__ import annotations

import uuid
from typing import Any

from shipoff.cdn import handlers
from shipoff.cdn.domain import Endpoint, ProxyTarget, Release, Route, StaticTarget, checked_endpoint, checked_hosts
from shipoff.cdn.handlers import Switchboard
from shipoff.cdn.ports import Releases, Table
from shipoff.common.errors import InvalidInput
from shipoff.contracts.cdn.v1 import cdn_pb2, cdn_pb2_grpc
from shipoff.contracts.types.v1 import types_pb2


class CdnServer(cdn_pb2_grpc.CdnServiceServicer):
    """Changes the table, then the edge."""

    def __init__(self, table: Table, releases: Releases, switchboard: Switchboard, *, reserved: frozenset[str]) -> None:
        self._table = table
        self._releases = releases
        self._switchboard = switchboard
        self._reserved = reserved

    async def PublishRelease(self, request: cdn_pb2.PublishReleaseRequest, context: Any) -> cdn_pb2.PublishReleaseResponse:
        artifact = request.artifact
        if artifact.kind != types_pb2.ARTIFACT_KIND_STATIC:
            raise InvalidInput("only static artifacts are served from here", field="artifact.kind")
        release = Release(request.deployment_id.lower(), artifact.object_key, artifact.digest)
        await handlers.publish(self._table, self._releases, release)
        return cdn_pb2.PublishReleaseResponse()

    async def SetRoute(self, request: cdn_pb2.SetRouteRequest, context: Any) -> cdn_pb2.SetRouteResponse:
        route = _route(request.route, self._reserved)
        await handlers.set_route(self._table, self._releases, self._switchboard, route)
        return cdn_pb2.SetRouteResponse()

    async def RemoveRoute(self, request: cdn_pb2.RemoveRouteRequest, context: Any) -> cdn_pb2.RemoveRouteResponse:
        place = (request.project_id.lower(), request.environment)
        await handlers.remove_route(self._table, self._switchboard, place, request.deployment_id.lower())
        return cdn_pb2.RemoveRouteResponse()

    async def ListRoutes(self, request: cdn_pb2.ListRoutesRequest, context: Any) -> cdn_pb2.ListRoutesResponse:
        routes = await self._table.routes(_project(request.project_id))
        return cdn_pb2.ListRoutesResponse(routes=[_message(route) for route in routes])


def _project(text: str) -> str:
    try:
        return str(uuid.UUID(text)) if text else ""
    except ValueError as error:
        raise InvalidInput("not a project's id", field="project_id") from error


def _route(message: cdn_pb2.Route, reserved: frozenset[str]) -> Route:
    return Route(
        project_id=message.project_id.lower(),
        environment=message.environment,
        deployment_id=message.deployment_id.lower(),
        hosts=checked_hosts(list(message.hosts), reserved=reserved),
        target=_target(message),
        fence=message.fence,
    )


def _target(message: cdn_pb2.Route) -> StaticTarget | ProxyTarget:
    if message.WhichOneof("target") == "static":
        return StaticTarget(spa=message.static.spa)
    endpoints = {checked_endpoint(Endpoint(endpoint.host, endpoint.port)) for endpoint in message.proxy.endpoints}
    return ProxyTarget(tuple(sorted(endpoints)), paused=message.proxy.paused)


def _message(route: Route) -> cdn_pb2.Route:
    message = cdn_pb2.Route(
        project_id=route.project_id,
        environment=route.environment,
        deployment_id=route.deployment_id,
        hosts=route.hosts,
        fence=route.fence,
    )
    if isinstance(route.target, StaticTarget):
        message.static.spa = route.target.spa
        message.static.SetInParent()
    else:
        message.proxy.SetInParent()
        message.proxy.paused = route.target.paused
        for endpoint in route.target.endpoints:
            message.proxy.endpoints.add(host=endpoint.host, port=endpoint.port)
    return message
