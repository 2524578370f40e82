"""GatewayService: what the operator's tools ask a gateway over gRPC."""

from __future__ import annotations

from importlib.metadata import version

from shipoff.contracts.gateway.v1 import gateway_pb2, gateway_pb2_grpc


class GatewayServer(gateway_pb2_grpc.GatewayServiceServicer):
    async def GetInfo(self, request: gateway_pb2.GetInfoRequest, context: object) -> gateway_pb2.GetInfoResponse:
        return gateway_pb2.GetInfoResponse(version=version("shipoff"))
