"""Valkey, and Redis 7, restart, lose their last second or everything, or take no writes. What was in flight comes back."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from neighbours.orchestrator import CLEAN_RUN, Rig, check_histories, names, surrounded

from shipoff.common.consumers import Consumer, ConsumerOptions
from shipoff.common.errors import Exhausted
from shipoff.common.ids import new_id
from shipoff.common.outbox import Outbox
from shipoff.common.postgres import Database
from shipoff.common.streams import DEPLOYMENT_QUEUE, Event, Streams
from shipoff.contracts.events.v1 import events_pb2
from shipoff.orchestrator import reconciler
from shipoff.orchestrator.main import running
from shipoff.orchestrator.settings import OrchestratorSettings

QUICK = ConsumerOptions(block_ms=50, reclaim_idle_s=0.3, first_backoff_s=0.05, upkeep_s=0.05)


class Seen:
    """A handler that remembers the attempts it was told of."""

    def __init__(self) -> None:
        self.attempts: list[int] = []

    async def __call__(self, events: Sequence[Event]) -> None:
        self.attempts += [event.message.attempt for event in events]


@pytest.fixture
async def parts(redis_server, database_url_for) -> AsyncIterator[tuple[Streams, Database, Outbox]]:
    async with AsyncExitStack() as stack:
        streams = await stack.enter_async_context(Streams.open(redis_server.url))
        database = await stack.enter_async_context(Database.open(await database_url_for("orchestrator")))
        yield streams, database, Outbox(database, streams, producing=[DEPLOYMENT_QUEUE])


async def emit(database: Database, outbox: Outbox, attempt: int) -> None:
    async with database.transaction() as tx:
        event = events_pb2.BuildStarted(deployment_id=new_id(), attempt=attempt)
        await outbox.emit(tx, DEPLOYMENT_QUEUE, event, tenant_id="t")


async def nothing_in_flight(database: Database) -> bool:
    return await database.one_or_none(sa.text("SELECT count(*) AS n FROM outbox")) == {"n": 0}


async def test_what_was_written_in_the_lost_second_is_published_again(parts, redis_server, eventually, tmp_path: Path):
    """Row 9: the append-only file as it was a moment ago is what the server comes back with."""
    streams, database, outbox = parts
    await emit(database, outbox, 1)
    await outbox.publish_pending()
    data = redis_server.data
    assert list(data.rglob("*.aof")), f"no append-only file below {data}"

    async def written() -> bool:
        info = await streams.client.info("persistence")
        return info["aof_pending_bio_fsync"] == 0 and info["aof_buffer_length"] == 0

    await eventually(written)
    shutil.copytree(data, tmp_path / "earlier", symlinks=True)
    await emit(database, outbox, 2)
    await outbox.publish_pending()
    await redis_server.stop()
    for path in (tmp_path / "earlier" / "appendonlydir").iterdir():
        shutil.copyfile(path, data / "appendonlydir" / path.name)
    await redis_server.start()
    assert await streams.client.xlen(DEPLOYMENT_QUEUE) == 1, "the second event was to be lost"
    seen = Seen()
    async with outbox.relaying(), Consumer(streams, DEPLOYMENT_QUEUE, "orchestrator", seen, options=QUICK).running():
        await eventually(lambda: set(seen.attempts) == {1, 2}, timeout_s=20)
        await eventually(lambda: nothing_in_flight(database), timeout_s=20)


def torn(data: Path, size: int) -> None:
    """Cuts the append-only file off where the last fsync was, and leaves the head of the entry that came next."""
    newest = max((data / "appendonlydir").glob("*.incr.aof"))
    assert newest.stat().st_size > size + 5, "nothing was written after that"
    os.truncate(newest, size + 5)


async def test_killed_without_its_last_second_the_sweep_finds_what_was_lost(
    backing, redis_url, database_url_for, eventually, monkeypatch
):
    """Row 9: kill -9 and a power cut with `appendfsync everysec`. Those who told of it do not tell again: they are asked."""
    monkeypatch.setattr(reconciler, "_LOOKED_AFTER_S", 0.5)
    url = await database_url_for("orchestrator")
    settings = OrchestratorSettings(database_url=url, SHIPOFF_REDIS_URL=redis_url, sweep_s=0.2, lease_s=1.0)
    async with AsyncExitStack() as stack:
        patient = partial(eventually, timeout_s=40)
        rig = await surrounded(stack, redis_url=redis_url, database_url=url, eventually=patient)
        rig.builds.automatic = rig.workloads.automatic = False
        async with running(settings):
            building, starting = await rig.request(new_id()), await rig.request(new_id())
            await rig.eventually(lambda: set(rig.builds.started) == {(building, 1), (starting, 1)})
            await rig.builds.succeed(starting)
            await rig.eventually(lambda: rig.workloads.applied == [starting])
        assert (await rig.streams.client.execute_command("WAITAOF", 1, 0, 5000))[0] == 1
        kept = max((backing.valkey.data / "appendonlydir").glob("*.incr.aof")).stat().st_size
        await rig.builds.succeed(building)
        await rig.workloads.ready(starting)
        os.kill(backing.valkey.child.pid, signal.SIGKILL)
        await backing.valkey.child.wait()
        torn(backing.valkey.data, kept)
        await backing.valkey.start()
        rig.workloads.automatic = True
        async with running(settings):
            for deployment_id in (building, starting):
                assert names(await rig.until(deployment_id, "PRODUCTION")) == CLEAN_RUN
            await check_histories(rig)


async def test_a_server_that_is_full_refuses_loudly_and_nothing_is_lost(parts, eventually):
    """Row 10."""
    streams, database, outbox = parts
    await streams.client.config_set("maxmemory", "1kb")
    try:
        with pytest.raises(Exhausted, match="takes no writes"):
            await streams.append(DEPLOYMENT_QUEUE, [b"x"])
        await emit(database, outbox, 3)
        with pytest.raises(Exhausted):
            await outbox.publish_pending()
    finally:
        await streams.client.config_set("maxmemory", "0")
    seen = Seen()
    async with outbox.relaying(), Consumer(streams, DEPLOYMENT_QUEUE, "orchestrator", seen, options=QUICK).running():
        await eventually(lambda: seen.attempts == [3], timeout_s=20)


async def test_redis_restarts(either_world, redis_server):
    """Row 7."""
    rig, orchestrators = either_world
    await orchestrators.start()
    rig.builds.automatic = False
    before = await rig.request(new_id())
    await rig.until(before, "BUILDING")
    await redis_server.stop()
    await redis_server.start()
    after = await rig.request(new_id())
    for deployment_id in (before, after):
        await rig.eventually(lambda wanted=deployment_id: (wanted, 1) in rig.builds.started)
        await rig.builds.succeed(deployment_id)
        assert names(await rig.until(deployment_id, "PRODUCTION")) == CLEAN_RUN
    await check_histories(rig)


async def test_everything_in_redis_is_lost_in_mid_run(either_world):
    """Row 8: what the neighbours had published is theirs to publish again; the sweep asks for what got lost."""
    rig, orchestrators = either_world
    await orchestrators.start()
    rig.builds.automatic = False
    first = await rig.request(new_id())
    await rig.until(first, "BUILDING")
    await rig.eventually(lambda: (first, 1) in rig.builds.started)
    await rig.streams.client.flushall()
    await rig.builds.succeed(first)
    assert names(await rig.until(first, "PRODUCTION")) == CLEAN_RUN
    second = await rig.request(new_id())
    await rig.until(second, "BUILDING")
    await check_histories_after_success(rig, second)


async def check_histories_after_success(rig: Rig, deployment_id: str) -> None:
    """Lets the last build end, then checks."""
    await rig.eventually(lambda: (deployment_id, 1) in rig.builds.started)
    await rig.builds.succeed(deployment_id)
    await rig.until(deployment_id, "PRODUCTION")
    await check_histories(rig)
