"""Where the gateway listens: for the public on a socket or on TCP, for its neighbours over gRPC."""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from neighbours.ports import free_port

from shipoff.common.errors import PreconditionFailed
from shipoff.common.rpc import channel
from shipoff.contracts.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from shipoff.gateway.main import running
from shipoff.gateway.settings import GatewaySettings


@pytest.fixture(name="free_port")
def _free_port() -> int:
    return free_port()


async def test_it_listens_on_tcp_where_it_is_told_to(sockets: Path, free_port: int) -> None:
    settings = GatewaySettings(http_listen=f"127.0.0.1:{free_port}")
    async with (
        running(settings, address_of=lambda service: f"unix:{sockets}/{service}.sock"),
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{free_port}") as http,
    ):
        assert (await http.get("/healthz")).status_code == 200
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", free_port)


async def test_a_taken_port_is_told_and_stops_nothing_else(sockets: Path, free_port: int) -> None:
    settings = GatewaySettings(http_listen=f"127.0.0.1:{free_port}")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port))
        taken.listen()
        with pytest.raises(PreconditionFailed, match="cannot listen"):
            async with running(settings, address_of=lambda service: f"unix:{sockets}/{service}.sock"):
                raise AssertionError


async def test_its_grpc_server_tells_its_version_and_health(rig: Any) -> None:
    address = f"unix:{rig.socket.parent.parent}/gateway.sock"
    async with channel(address) as ch:
        info = await gateway_pb2_grpc.GatewayServiceStub(ch).GetInfo(gateway_pb2.GetInfoRequest())
    assert info.version == (await rig.call("GET", "/v1/info")).json()["version"]
    async with grpc.aio.insecure_channel(address) as plain:
        request = health_pb2.HealthCheckRequest(service="shipoff.gateway.v1.GatewayService")
        health = await health_pb2_grpc.HealthStub(plain).Check(request)
    assert health.status == health_pb2.HealthCheckResponse.SERVING


async def test_it_leaves_the_signals_to_the_process_and_removes_its_socket(sockets: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    settings = GatewaySettings(http_socket=str(sockets / "edge" / "gateway.sock"))
    async with running(settings, address_of=lambda service: f"unix:{sockets}/{service}.sock"):
        assert signal.getsignal(signal.SIGTERM) == before
        assert settings.socket_path().is_socket()
    assert not settings.socket_path().exists()


async def test_a_socket_that_a_killed_gateway_left_is_replaced(sockets: Path) -> None:
    path = sockets / "edge" / "gateway.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    settings = GatewaySettings(http_socket=str(path))
    async with (
        running(settings, address_of=lambda service: f"unix:{sockets}/{service}.sock"),
        httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(uds=str(path)), base_url="http://a") as http,
    ):
        assert (await http.get("/healthz")).status_code == 200
