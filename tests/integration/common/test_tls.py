"""Certificates between services, over real TCP with an authority of the tests' own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest
from cryptography.hazmat.primitives import serialization
from grpc_health.v1 import health_pb2, health_pb2_grpc
from neighbours.authority import Authority, Files
from neighbours.ports import free_port
from pydantic import ValidationError

from shipoff.common import calls, errors, tls
from shipoff.common.config import load
from shipoff.common.rpc import channel, serving
from shipoff.common.tls import Certificates, TlsSettings
from shipoff.contracts.build.v1 import build_pb2, build_pb2_grpc
from shipoff.contracts.detector.v1 import detector_pb2, detector_pb2_grpc

DETECTOR = detector_pb2_grpc.add_DetectorServiceServicer_to_server


class Detector(detector_pb2_grpc.DetectorServiceServicer):
    async def Detect(self, request, context):
        return detector_pb2.DetectResponse(problem="reached")


class Builders(build_pb2_grpc.BuilderServiceServicer):
    async def FetchSource(self, request, context):
        raise errors.NotFound("reached")
        yield


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> Callable[[Files], None]:
    """Makes the settings name these files from now on."""

    def named(files: Files) -> None:
        for name in ("certificate", "key", "ca"):
            monkeypatch.setenv(f"SHIPOFF_TLS_{name.upper()}", str(getattr(files, name)))

    return named


@pytest.fixture
async def detector(authority: Authority, tmp_path: Path, become: Callable[[Files], None]) -> AsyncIterator[str]:
    """The address of a detector that has a certificate."""
    become(authority.issue(tmp_path / "detector", "detector"))
    address = f"localhost:{free_port()}"
    async with serving(address, [(DETECTOR, Detector())]):
        yield address


@asynccontextmanager
async def called_by(address: str, files: Files) -> AsyncIterator[detector_pb2_grpc.DetectorServiceStub]:
    """The stub of who has these files."""
    certificates = Certificates(files.certificate, files.key, files.ca)
    async with calls.channel(address, credentials=certificates.for_channels) as opened:
        yield detector_pb2_grpc.DetectorServiceStub(opened)


async def detect(stub: detector_pb2_grpc.DetectorServiceStub) -> str:
    answer = await stub.Detect(detector_pb2.DetectRequest(paths=["a"]), timeout=20)
    return str(answer.problem)


@pytest.mark.parametrize("service", ["gateway", "build"])
async def test_a_service_that_the_call_graph_lets_call_is_answered(detector, authority, tmp_path, service):
    async with called_by(detector, authority.issue(tmp_path / service, service)) as stub:
        assert await detect(stub) == "reached"


@pytest.mark.parametrize("names", [["worker"], ["detector"], [], ["gateway.evil"]])
async def test_a_service_that_the_call_graph_does_not_name_is_refused(detector, authority, tmp_path, names):
    async with called_by(detector, authority.issue(tmp_path / "other", *names)) as stub:
        with pytest.raises(errors.PermissionDenied, match="may not call detector") as refused:
            await detect(stub)
    assert refused.value.remedy == "its callers are: build, gateway"


async def test_a_certificate_of_another_authority_is_refused(detector, tmp_path):
    async with called_by(detector, Authority("another").issue(tmp_path / "gateway", "gateway")) as stub:
        with pytest.raises(errors.Unavailable):
            await detect(stub)


async def test_a_certificate_that_has_expired_is_refused(detector, authority, tmp_path):
    async with called_by(detector, authority.issue(tmp_path / "gateway", "gateway", days=-1)) as stub:
        with pytest.raises(errors.Unavailable):
            await detect(stub)


async def test_who_shows_no_certificate_is_refused(detector, authority, tmp_path):
    files = authority.issue(tmp_path / "gateway", "gateway")
    known = grpc.ssl_channel_credentials(files.ca.read_bytes())
    for credentials in (lambda: known, calls.in_clear):
        async with calls.channel(detector, credentials=credentials) as opened:
            with pytest.raises(errors.Unavailable):
                await detect(detector_pb2_grpc.DetectorServiceStub(opened))


async def test_a_server_of_another_authority_is_not_believed(detector, authority, tmp_path, become):
    caller = Authority("another").issue(tmp_path / "gateway", "gateway")
    become(caller)
    async with channel(detector) as opened:
        with pytest.raises(errors.Unavailable):
            await detect(detector_pb2_grpc.DetectorServiceStub(opened))


async def test_a_channel_of_a_service_shows_what_its_settings_name(detector, authority, tmp_path, become):
    become(authority.issue(tmp_path / "gateway", "gateway"))
    async with channel(detector) as opened:
        assert await detect(detector_pb2_grpc.DetectorServiceStub(opened)) == "reached"


async def test_a_server_takes_its_renewed_certificate_without_a_restart(authority, tmp_path, become):
    # Of another authority: nothing of before would be believed.
    former = Authority("former")
    become(former.issue(tmp_path / "detector", "detector"))
    address = f"localhost:{free_port()}"
    async with serving(address, [(DETECTOR, Detector())]):
        async with called_by(address, former.issue(tmp_path / "early", "gateway")) as early:
            assert await detect(early) == "reached"
        authority.issue(tmp_path / "detector", "detector")
        async with called_by(address, former.issue(tmp_path / "late", "gateway")) as late:
            with pytest.raises(errors.Unavailable):
                await detect(late)
        async with called_by(address, authority.issue(tmp_path / "gateway", "gateway")) as stub:
            assert await detect(stub) == "reached"


async def test_a_caller_takes_its_renewed_certificate_without_a_restart(authority, tmp_path, become):
    former = Authority("former")
    address = f"localhost:{free_port()}"
    async with called_by(address, former.issue(tmp_path / "gateway", "gateway")) as stub:
        for issuer in (former, authority):
            become(issuer.issue(tmp_path / f"detector of {issuer.name}", "detector"))
            issuer.issue(tmp_path / "gateway", "gateway")
            # Another server each time, so that no connection of before is used.
            async with serving(address, [(DETECTOR, Detector())]):
                assert await detect(stub) == "reached"


async def test_a_certificate_that_cannot_be_read_again_stays(detector, authority, tmp_path):
    files = authority.issue(tmp_path / "gateway", "gateway")
    async with called_by(detector, files) as stub:
        files.key.unlink()
        assert await detect(stub) == "reached"


async def test_a_unix_socket_needs_no_certificate(authority, tmp_path, become, shipoff_home):
    become(authority.issue(tmp_path / "worker", "worker"))
    address = f"unix:{shipoff_home}/tls.sock"
    async with serving(address, [(DETECTOR, Detector())]), channel(address) as opened:
        assert await detect(detector_pb2_grpc.DetectorServiceStub(opened)) == "reached"


async def test_builders_hold_no_certificate(authority, tmp_path, become):
    become(authority.issue(tmp_path / "build", "build"))
    address = f"localhost:{free_port()}"
    added = [(build_pb2_grpc.add_BuilderServiceServicer_to_server, Builders())]
    async with serving(address, added):
        await _fetch(address, tls.authority(), errors.NotFound)
        # What is served there is believed by its certificate, and not to be had in clear.
        stranger = Authority("another").certificate.public_bytes(serialization.Encoding.PEM).decode()
        await _fetch(address, stranger, errors.Unavailable)
        await _fetch(address, "", errors.Unavailable)


async def _fetch(address: str, authority: str, expected: type[errors.ShipoffError]) -> None:
    async with calls.channel(address, credentials=calls.believing(authority)) as opened:
        with pytest.raises(expected):
            async for _ in build_pb2_grpc.BuilderServiceStub(opened).FetchSource(build_pb2.FetchSourceRequest()):
                pass


async def test_health_is_served_in_clear_where_probes_look(authority, tmp_path, become, monkeypatch):
    become(authority.issue(tmp_path / "detector", "detector"))
    probed = f"localhost:{free_port()}"
    monkeypatch.setenv("SHIPOFF_PROBE_LISTEN", probed)
    async with serving(f"localhost:{free_port()}", [(DETECTOR, Detector())]), calls.channel(probed) as opened:
        answer = await health_pb2_grpc.HealthStub(opened).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(errors.Internal, match=r"(?i)method not found"):
            await detect(detector_pb2_grpc.DetectorServiceStub(opened))


def test_half_of_the_files_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("SHIPOFF_TLS_CERTIFICATE", "/c.pem")
    with pytest.raises(ValidationError, match="SHIPOFF_TLS_KEY and SHIPOFF_TLS_CA"):
        load(TlsSettings)


def test_files_that_are_missing_at_the_start_are_named(tmp_path, become):
    become(Files(tmp_path / "c", tmp_path / "k", tmp_path / "ca"))
    with pytest.raises(errors.PreconditionFailed, match="cannot be read") as refused:
        tls.settled()
    assert refused.value.field == "SHIPOFF_TLS_CERTIFICATE"
