"""Calls between services over a real Unix socket: errors, validation, deadlines, ids, health, reflection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from neighbours.faultproxy import FaultProxy

from shipoff.common import calls, errors
from shipoff.common.ids import new_id
from shipoff.common.rpc import Bounds, channel, serving
from shipoff.common.telemetry import Context, current, working_on
from shipoff.contracts.build.v1 import build_pb2, build_pb2_grpc
from shipoff.contracts.detector.v1 import detector_pb2, detector_pb2_grpc
from shipoff.contracts.log.v1 import log_pb2, log_pb2_grpc


class Detector(detector_pb2_grpc.DetectorServiceServicer):
    """Raises, waits or tells the ids, as the first path says."""

    async def Detect(self, request, context):
        match request.paths[0]:
            case "missing":
                raise errors.NotFound("there is none", field="paths", remedy="add one")
            case "full":
                raise errors.Exhausted("full", 7.5)
            case "defect":
                raise ZeroDivisionError("a secret: hunter2")
            case "slow":
                await asyncio.sleep(30)
        ids = current()
        return detector_pb2.DetectResponse(problem=f"{ids.request_id} {ids.tenant_id} {ids.traceparent}")


class Logs(log_pb2_grpc.LogServiceServicer):
    """Streams until the caller leaves."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def FollowLogs(self, request, context):
        try:
            for gap in range(1_000_000):
                yield log_pb2.FollowLogsResponse(gap=gap)
                await asyncio.sleep(0)
        finally:
            self.left.set()


class Silent(log_pb2_grpc.LogServiceServicer):
    """Streams one message, then nothing until the caller leaves."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def FollowLogs(self, request, context):
        try:
            yield log_pb2.FollowLogsResponse(gap=1)
            await asyncio.Event().wait()
        finally:
            self.left.set()


class Remaining(build_pb2_grpc.BuildServiceServicer, build_pb2_grpc.BuilderServiceServicer):
    """Tells how long each call may take, by failing with it: one method of each kind."""

    async def GetBuild(self, request, context):
        raise errors.NotFound(str(context.time_remaining()))

    async def UploadArtifact(self, request_iterator, context):
        raise errors.NotFound(str(context.time_remaining()))

    async def FetchSource(self, request, context):
        raise errors.NotFound(str(context.time_remaining()))
        yield

    async def Session(self, request_iterator, context):
        raise errors.NotFound(str(context.time_remaining()))
        yield


@pytest.fixture
async def address(shipoff_home: Path) -> str:
    return f"unix:{shipoff_home}/rpc-{new_id()[-6:]}.sock"


@pytest.fixture
async def logs() -> Logs:
    return Logs()


@pytest.fixture
async def connected(address: str, logs: Logs) -> AsyncIterator[grpc.aio.Channel]:
    registrations = [
        (detector_pb2_grpc.add_DetectorServiceServicer_to_server, Detector()),
        (log_pb2_grpc.add_LogServiceServicer_to_server, logs),
    ]
    async with serving(address, registrations), channel(address) as opened:
        yield opened


async def detect(connected: grpc.aio.Channel, path: str, **options: float) -> detector_pb2.DetectResponse:
    return await detector_pb2_grpc.DetectorServiceStub(connected).Detect(detector_pb2.DetectRequest(paths=[path]), **options)


async def test_what_a_service_raises_is_what_its_caller_sees(connected):
    with pytest.raises(errors.NotFound, match="there is none") as missing:
        await detect(connected, "missing")
    assert (missing.value.field, missing.value.remedy) == ("paths", "add one")
    with pytest.raises(errors.Exhausted) as full:
        await detect(connected, "full")
    assert full.value.retry_after_s == 7.5


async def test_a_defect_tells_the_caller_nothing_of_the_inside(connected):
    with pytest.raises(errors.Internal) as raised:
        await detect(connected, "defect")
    assert "hunter2" not in str(raised.value)


async def test_every_call_has_a_deadline(connected):
    with pytest.raises(errors.DeadlineExceeded):
        await detect(connected, "slow", timeout=0.2)


async def nothing() -> AsyncIterator[build_pb2.SessionRequest]:
    """What is streamed up."""
    for _ in ():
        yield


async def first(stream: AsyncIterator[object]) -> object:
    """Its first message."""
    async for message in stream:
        return message
    return None


@pytest.mark.parametrize("open_channel", [channel, calls.channel], ids=["a service's", "the builder's"])
async def test_calls_of_every_kind_have_a_deadline_unless_they_say_otherwise(address, open_channel):
    added = [build_pb2_grpc.add_BuildServiceServicer_to_server, build_pb2_grpc.add_BuilderServiceServicer_to_server]
    async with serving(address, [(add, Remaining()) for add in added]), open_channel(address) as opened:
        build, builder = build_pb2_grpc.BuildServiceStub(opened), build_pb2_grpc.BuilderServiceStub(opened)
        for call in (
            build.GetBuild(build_pb2.GetBuildRequest(deployment_id=new_id(), attempt=1)),
            builder.UploadArtifact(nothing()),
            first(builder.FetchSource(build_pb2.FetchSourceRequest())),
            first(builder.Session(nothing())),
        ):
            with pytest.raises(errors.NotFound) as told:
                await call
            # gRPC rounds it up a little.
            assert 0 < float(told.value.message) < calls.DEFAULT_TIMEOUT_S + 1
        with pytest.raises(errors.NotFound, match="None"):
            await first(builder.Session(nothing(), timeout=None))


async def test_a_silent_stream_ends_on_both_sides_when_the_network_takes_everything(address, shipoff_home):
    silent = Silent()
    registrations = [(log_pb2_grpc.add_LogServiceServicer_to_server, silent)]
    path = address.removeprefix("unix:")
    async with (
        serving(address, registrations, bounds=Bounds(keepalive_s=0.5)),
        FaultProxy.running(path, listen=f"{path}-proxy") as proxy,
        channel(f"unix:{path}-proxy", keepalive_s=0.5) as opened,
    ):
        request = log_pb2.FollowLogsRequest(deployment_id=new_id())
        stream = log_pb2_grpc.LogServiceStub(opened).FollowLogs(request, timeout=None)
        assert (await anext(stream)).gap == 1
        proxy.blackhole()
        async with asyncio.timeout(20):
            with pytest.raises(errors.Unavailable):
                await anext(stream)
            await silent.left.wait()


async def test_a_stream_outlives_the_pings_that_are_answered_but_not_its_connection_s_age(address):
    silent = Silent()
    registrations = [(log_pb2_grpc.add_LogServiceServicer_to_server, silent)]
    bounds = Bounds(keepalive_s=0.2, age_s=1.5, age_grace_s=0.2)
    async with serving(address, registrations, bounds=bounds), channel(address, keepalive_s=0.2) as opened:
        stub = log_pb2_grpc.LogServiceStub(opened)
        request = log_pb2.FollowLogsRequest(deployment_id=new_id())
        stream = stub.FollowLogs(request, timeout=None)
        assert (await anext(stream)).gap == 1
        waited = asyncio.get_running_loop().time()
        async with asyncio.timeout(20):
            with pytest.raises(errors.Unavailable):
                await anext(stream)
            await silent.left.wait()
        assert asyncio.get_running_loop().time() - waited > 1.0
        # The same channel goes on over a new connection.
        assert (await anext(stub.FollowLogs(request, timeout=None))).gap == 1


async def test_ids_arrive_and_a_trace_is_begun_where_there_is_none(connected):
    with working_on(Context(request_id="r", tenant_id="t")) as ids:
        assert (await detect(connected, "ids")).problem == f"r t {ids.traceparent}"


async def test_a_request_that_breaks_its_contract_names_the_field(connected):
    stub = log_pb2_grpc.LogServiceStub(connected)
    with pytest.raises(errors.InvalidInput) as raised:
        async for _ in stub.FollowLogs(log_pb2.FollowLogsRequest(deployment_id="no uuid"), timeout=5):
            pass
    assert raised.value.field == "deployment_id"


async def test_a_caller_that_leaves_ends_the_stream_on_the_other_side(connected, logs):
    stub = log_pb2_grpc.LogServiceStub(connected)
    stream = stub.FollowLogs(log_pb2.FollowLogsRequest(deployment_id=new_id()), timeout=None)
    async for _ in stream:
        break
    await stream.aclose()
    await asyncio.wait_for(logs.left.wait(), 5)


async def test_a_server_that_is_not_there_is_unavailable(address):
    async with channel(address) as opened:
        with pytest.raises(errors.Unavailable):
            await detect(opened, "x")


async def test_health_and_reflection_answer(connected, address):
    async with grpc.aio.insecure_channel(address) as plain:
        health = await health_pb2_grpc.HealthStub(plain).Check(
            health_pb2.HealthCheckRequest(service="shipoff.log.v1.LogService")
        )
        assert health.status == health_pb2.HealthCheckResponse.SERVING

        async def asked():
            yield reflection_pb2.ServerReflectionRequest(list_services="")

        async for answer in reflection_pb2_grpc.ServerReflectionStub(plain).ServerReflectionInfo(asked()):
            names = {service.name for service in answer.list_services_response.service}
            break
    assert {"shipoff.detector.v1.DetectorService", "shipoff.log.v1.LogService"} <= names


async def test_an_address_that_cannot_be_had_says_so():
    with pytest.raises(errors.PreconditionFailed, match="cannot listen"):
        async with serving("unix:/proc/nowhere.sock", []):
            pass


async def test_a_second_server_leaves_the_socket_to_the_one_that_serves(shipoff_home):
    address = f"unix:{shipoff_home}/taken.sock"
    async with serving(address, []):
        with pytest.raises(errors.PreconditionFailed, match="runs there already"):
            async with serving(address, []):
                raise AssertionError
        async with grpc.aio.insecure_channel(address) as plain:
            answer = await health_pb2_grpc.HealthStub(plain).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_socket_that_was_left_behind_is_taken_over(shipoff_home):
    path = shipoff_home / "left.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
        left.listen()
    async with serving(f"unix:{path}", []), grpc.aio.insecure_channel(f"unix:{path}") as plain:
        answer = await health_pb2_grpc.HealthStub(plain).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
