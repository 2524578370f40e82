"""The detector over gRPC on a Unix socket, as the builder calls it."""

from __future__ import annotations

from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shipoff.common.errors import InvalidInput
from shipoff.common.rpc import channel
from shipoff.contracts.detector.v1 import detector_pb2, detector_pb2_grpc
from shipoff.contracts.types.v1 import types_pb2
from shipoff.detector.main import running
from shipoff.detector.settings import DetectorSettings

_FLASK = b"from flask import Flask\nserver = Flask(__name__)\n"


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/detector.sock"


async def _detect(address: str, request: detector_pb2.DetectRequest) -> detector_pb2.DetectResponse:
    async with running(DetectorSettings(listen=address)), channel(address) as connection:
        stub = detector_pb2_grpc.DetectorServiceStub(connection)
        response: detector_pb2.DetectResponse = await stub.Detect(request)
        return response


async def test_a_source_gets_its_plan(address: str) -> None:
    request = detector_pb2.DetectRequest(
        paths=["app.py", "requirements.txt"],
        contents={"app.py": _FLASK, "requirements.txt": b"flask\ngunicorn\n"},
        settings=types_pb2.BuildSettings(build_command="python -m compileall ."),
    )
    plan = (await _detect(address, request)).plan
    assert (plan.schema, plan.provider, plan.framework, plan.mode) == (2, "python", "flask", types_pb2.PLAN_MODE_SERVER)
    assert [step.name for step in plan.steps] == ["install", "build"]
    assert list(plan.steps[1].commands[0].argv) == [".venv/bin/python", "-m", "compileall", "."]
    assert "app:server" in plan.processes[0].command.argv


async def test_what_cannot_be_recognised_is_a_problem_and_no_error(address: str) -> None:
    response = await _detect(address, detector_pb2.DetectRequest(paths=["notes.txt"]))
    assert not response.HasField("plan")
    assert "notes.txt" in response.problem


async def test_a_request_that_breaks_the_contract_is_refused_by_field(address: str) -> None:
    request = detector_pb2.DetectRequest(settings=types_pb2.BuildSettings(root_directory="x" * 600))
    with pytest.raises(InvalidInput) as raised:
        await _detect(address, request)
    assert raised.value.field == "settings.root_directory"


async def test_it_says_that_it_serves(address: str) -> None:
    async with running(DetectorSettings(listen=address)), grpc.aio.insecure_channel(address) as connection:
        answer = await health_pb2_grpc.HealthStub(connection).Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
