"""The object store (a real S3 server) answers with errors, crawls, or gives other bytes than were stored."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from neighbours.build import Yard, build_yard, plan_of
from neighbours.faultproxy import FaultProxy
from neighbours.s3 import S3, refusing, s3_serving, settings

from shipoff.common.errors import DataLoss, Unavailable
from shipoff.common.objects import ObjectStore
from shipoff.contracts.events.v1 import events_pb2

MIB = 1 << 20


@pytest.fixture(scope="module")
async def s3(tmp_path_factory) -> AsyncIterator[S3]:
    """The server."""
    async with s3_serving(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
async def network(s3: S3, monkeypatch) -> AsyncIterator[FaultProxy]:
    """What lies between the platform and the server; errors are not tried again for long."""
    async with FaultProxy.running(s3.address) as proxy:
        for name, value in settings(proxy.listen, retry_s=0.5).items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
async def store(s3: S3, network: FaultProxy) -> AsyncIterator[ObjectStore]:
    async with ObjectStore.open(s3.url) as opened:
        yield opened


@pytest.fixture
async def yard(backing, redis_url, database_url_for, s3: S3, network) -> AsyncIterator[Yard]:
    """A build service that keeps its objects in S3."""
    url = await database_url_for("build")
    async with build_yard(backing.home, database_url=url, redis_url=redis_url, objects_url=s3.url) as made:
        yield made


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), MIB):
        yield data[at : at + MIB]


async def test_what_is_stored_in_s3_comes_back_whole_and_can_be_moved_and_removed(store: ObjectStore, tmp_path: Path):
    data = bytes(range(256)) * 4096 * 12
    digest, size = await store.put_stream("incoming/a", _chunks(data))
    assert (digest, size) == (f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))
    await store.move("incoming/a", "artifacts/b")
    assert (await store.exists("incoming/a"), await store.exists("artifacts/b")) == (False, True)
    await store.get_to_file("artifacts/b", tmp_path / "b", digest=digest)
    await store.delete("artifacts/b")
    await store.delete("artifacts/b")
    assert not await store.exists("artifacts/b")


async def test_an_object_that_was_changed_where_it_lies_is_refused_by_its_digest(store: ObjectStore, s3: S3, tmp_path: Path):
    digest, _ = await store.put_stream("artifacts/c", _chunks(b"good" * 1000))
    (s3.folder / "shipoff" / "objects" / "artifacts" / "c").write_bytes(b"evil" * 1000)
    with pytest.raises(DataLoss):
        await store.get_to_file("artifacts/c", tmp_path / "c", digest=digest)
    assert not await asyncio.to_thread((tmp_path / "c").exists)


@pytest.mark.parametrize("status", [500, 503])
async def test_errors_of_the_store_are_tried_again_until_a_deadline(
    store: ObjectStore, network: FaultProxy, s3: S3, status: int
):
    async with refusing(status) as nobody:
        network.upstream = nobody
        began = time.monotonic()
        with pytest.raises(Unavailable, match="does not answer"):
            await store.put_stream("x", _chunks(b"x"))
        assert network.accepted >= 2
        assert time.monotonic() - began < 30
    network.upstream = s3.address
    await store.put_stream("x", _chunks(b"x"))


async def test_a_store_that_crawls_is_given_up_on_and_not_waited_for(store: ObjectStore, network, s3, monkeypatch):
    await store.put_stream("slow", _chunks(bytes(MIB)))
    for name, value in settings(network.listen, timeout_s=1, stall_s=1).items():
        monkeypatch.setenv(name, value)
    network.bytes_per_s = 1000
    began = time.monotonic()
    async with ObjectStore.open(s3.url) as impatient:
        with pytest.raises(Unavailable, match="too slow"):
            await anext(impatient.get_stream("slow"))
        with pytest.raises(Unavailable, match="too slow"):
            await impatient.put_stream("slower", _chunks(bytes(MIB)))
    # At this rate each would have taken a quarter of an hour.
    assert time.monotonic() - began < 60
    network.heal()
    network.cut()
    assert not await store.exists("slower")


async def test_a_build_whose_artifact_cannot_be_stored_fails_with_the_reason_and_the_next_succeeds(
    yard, network, s3, eventually
):
    deployment = await yard.start({"app.json": plan_of("echo made; sleep 1")})
    await yard.until_said(deployment, "made", timeout_s=60)
    async with refusing(503) as nobody:
        network.upstream = nobody
        network.cut()
        result = await yard.result(deployment, timeout_s=120)
    assert result.failure == events_pb2.BUILD_FAILURE_ARTIFACT, result
    assert result.reason.startswith("the artifact cannot be stored: the object store does not answer")
    network.upstream = s3.address
    # Its builder has gone, and with it its slot; nothing of it can go live.
    await eventually(lambda: not yard.builders())
    assert not [key for key in s3.objects() if key.startswith(f"artifacts/{yard.project_id}")]
    again = await yard.result(await yard.start({"app.json": plan_of("true")}), timeout_s=60)
    assert isinstance(again, events_pb2.BuildSucceeded), again


async def test_a_build_outlives_a_store_that_is_away_for_a_moment(yard, network, s3, eventually):
    deployment = await yard.start({"app.json": plan_of("echo made; sleep 1")})
    await yard.until_said(deployment, "made", timeout_s=60)
    async with refusing(503) as nobody:
        network.upstream = nobody
        network.cut()
        before = network.accepted
        await eventually(lambda: network.accepted > before + 1, timeout_s=60)
        network.upstream = s3.address
    assert isinstance(await yard.result(deployment, timeout_s=60), events_pb2.BuildSucceeded)
