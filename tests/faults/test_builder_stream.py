"""The builder's connection to the build service breaks, in any way and again and again: every line arrives, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from neighbours.build import Yard, build_yard, plan_of
from neighbours.faultproxy import FaultProxy

from shipoff.contracts.events.v1 import events_pb2

LINES = 400


@pytest.fixture
async def yard(backing, redis_url, database_url_for) -> AsyncIterator[Yard]:
    """A running build service."""
    url = await database_url_for("build")
    options = {"database_url": url, "redis_url": redis_url, "objects_url": backing.objects_url}
    async with build_yard(backing.home, **options) as made:
        yield made


@pytest.fixture
async def network(yard: Yard) -> AsyncIterator[FaultProxy]:
    """What lies between builders and the service."""
    listen = Path(yard.settings.builder_address.removeprefix("unix:"))
    behind = await asyncio.to_thread(listen.rename, listen.with_name("behind.sock"))
    async with FaultProxy.running(str(behind), listen=str(listen)) as proxy:
        await asyncio.to_thread(listen.chmod, 0o666)
        yield proxy


async def test_a_stream_that_is_cut_again_and_again_loses_no_line_and_repeats_none(yard, network, eventually):
    script = (
        f"i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo line $i; sleep 0.005; done; head -c 3000000 /dev/urandom > noise"
    )
    deployment = await yard.start({"app.json": plan_of(script)})
    cuts = 0
    for reached in range(30, LINES, 50):
        await eventually(lambda least=reached: _stored(yard, deployment, least), timeout_s=60)
        before = network.accepted
        # Halfway through whatever is under way: in good order, as after a crash, or with nobody being told for a while.
        (network.cut, network.reset, network.blackhole)[cuts % 3]()
        if cuts % 3 == 2:
            network.cut()
            network.heal()
        await eventually(lambda former=before: network.accepted > former, timeout_s=30)
        cuts += 1
    assert cuts >= 7
    result = await yard.result(deployment, timeout_s=60)
    assert isinstance(result, events_pb2.BuildSucceeded), result
    lines = await yard.lines(deployment)
    assert [line.sequence for line in lines] == list(range(1, len(lines) + 1))
    assert [line.text for line in lines if line.channel] == [f"line {n}" for n in range(1, LINES + 1)]
    assert (await yard.files(result.artifact))["noise"]


async def _stored(yard: Yard, deployment: str, least: int) -> bool:
    return len(await yard.lines(deployment)) >= least


async def test_an_upload_that_is_cut_is_made_again_and_whole(yard, network, eventually):
    deployment = await yard.start({"app.json": plan_of("head -c 8000000 /dev/urandom > noise; echo made")})
    incoming = yard.home / "objects" / "incoming"
    await yard.until_said(deployment, "made", timeout_s=60)
    network.bytes_per_s = 2 << 20
    for _ in range(2):
        await eventually(lambda: [path for path in incoming.rglob("*") if path.is_file()], timeout_s=60)
        network.cut()
        await eventually(lambda: not [path for path in incoming.rglob("*") if path.is_file()], timeout_s=30)
    network.heal()
    result = await yard.result(deployment, timeout_s=90)
    assert isinstance(result, events_pb2.BuildSucceeded), result
    # Its digest is checked here.
    assert len((await yard.files(result.artifact))["noise"]) == 8_000_000
    await eventually(lambda: not yard.leftovers())
