"""Lines from the stream to their readers."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import sqlalchemy as sa

from shipoff.common.errors import InvalidInput, Unavailable
from shipoff.common.ids import new_id
from shipoff.common.streams import LOGS_INGEST
from shipoff.contracts.log.v1 import log_pb2
from shipoff.log.main import running
from shipoff.log.settings import LogSettings

from .conftest import APP, BUILD, PLATFORM, Log, batch, connected

_AGE = sa.text("UPDATE chunks SET received_at = now() - interval '15 days' WHERE deployment_id = :id")


async def test_lines_are_read_in_the_order_of_positions_without_holes(log: Log, eventually) -> None:
    deployment = new_id()
    await log.send(batch(deployment, range(1, 4)), batch(deployment, range(4, 6)), batch(deployment, range(1, 3), stream="app"))
    await eventually(lambda: _count(log, deployment, 7))
    entries = await log.entries(deployment)
    assert [entry.position for entry in entries] == list(range(1, 8))
    assert all(entry.line.HasField("time") for entry in entries)


async def _count(log: Log, deployment: str, count: int) -> bool:
    return len(await log.entries(deployment)) == count


async def test_redelivered_batches_store_nothing_twice(log: Log, eventually) -> None:
    deployment = new_id()
    first = batch(deployment, range(1, 101))
    await log.send(first, first)
    await log.send(batch(deployment, range(51, 151)), first)
    await eventually(lambda: _count(log, deployment, 150))
    assert await log.texts(deployment) == [f"line {n}" for n in range(1, 151)]


async def test_batches_out_of_order_lose_nothing(log: Log, eventually) -> None:
    deployment = new_id()
    await log.send(batch(deployment, range(11, 21)))
    await eventually(lambda: _count(log, deployment, 10))
    await log.send(batch(deployment, range(1, 11)))
    await eventually(lambda: _late(log, deployment))


async def _late(log: Log, deployment: str) -> bool:
    texts = await log.texts(deployment)
    return {f"line {n}" for n in range(1, 21)} <= set(texts)


async def test_lost_lines_are_counted_in_a_line_of_the_platform(log: Log, eventually) -> None:
    deployment = new_id()
    await log.send(batch(deployment, range(1, 3)), batch(deployment, range(8, 10)))
    await eventually(lambda: _count(log, deployment, 5))
    marker = (await log.entries(deployment, sources=[PLATFORM]))[0]
    assert (marker.position, marker.line.text) == (5, "5 lines were lost on the way to the log")


async def test_tail_limit_after_and_sources(log: Log, eventually) -> None:
    deployment = new_id()
    await log.send(batch(deployment, range(1, 2001)), batch(deployment, range(1, 11), stream="app", source=APP, text="app {}"))
    await eventually(lambda: log.entries(deployment, after=2009))
    assert await log.texts(deployment, tail=True, limit=12) == ["line 1999", "line 2000", *[f"app {n}" for n in range(1, 11)]]
    assert await log.texts(deployment, tail=True, limit=2, sources=[BUILD]) == ["line 1999", "line 2000"]
    assert await log.texts(deployment, after=1500, limit=2) == ["line 1501", "line 1502"]
    assert await log.texts(deployment, sources=[APP], limit=1) == ["app 1"]
    page = await log.stub.ReadLogs(log_pb2.ReadLogsRequest(deployment_id=deployment, after=2000, limit=10))
    assert (len(page.entries), page.more) == (10, False)
    page = await log.stub.ReadLogs(log_pb2.ReadLogsRequest(deployment_id=deployment, limit=2009))
    assert (len(page.entries), page.more) == (2009, True)
    with pytest.raises(InvalidInput):
        await log.entries("../etc")


async def test_a_page_of_long_lines_fits_a_message_and_says_that_there_is_more(log: Log, eventually) -> None:
    deployment = new_id()
    for first in range(1, 1001, 100):
        await log.send(batch(deployment, range(first, first + 100), text="x" * 16000))
    await eventually(lambda: log.entries(deployment, after=999))
    page = await log.stub.ReadLogs(log_pb2.ReadLogsRequest(deployment_id=deployment, limit=10000))
    assert page.more
    assert 100 < len(page.entries) < 1000
    async with asyncio.timeout(20):
        assert await _follow(log, deployment, count=1000) == list(range(1, 1001))


async def test_nul_ansi_and_markup_come_back_as_they_were(log: Log, eventually) -> None:
    deployment = new_id()
    text = "\x00 \x1b[2J\x1b]0;title\x07 <script>alert(1)</script> \N{SNOWMAN} '); DROP TABLE chunks; --"
    await log.send(batch(deployment, range(1, 2), text=text))
    await eventually(lambda: _count(log, deployment, 1))
    assert await log.texts(deployment) == [text]


async def test_batches_that_cannot_be_stored_become_dead_letters_and_hold_up_nobody(log: Log, eventually) -> None:
    deployment = new_id()
    nameless = batch(deployment, range(1, 2))
    nameless.stream_id = "\x00"
    uncounted = batch(deployment, range(1))
    await log.send(batch("no-uuid", range(1, 2)), nameless, uncounted, batch(deployment, range(1, 3)))
    await eventually(lambda: _count(log, deployment, 2))

    async def dead() -> bool:
        return await log.streams.client.xlen(f"{LOGS_INGEST}.dead") == 3

    await eventually(dead)


async def _follow(log: Log, deployment: str, *, count: int, after: int = 0) -> list[int]:
    positions: list[int] = []
    call = log.stub.FollowLogs(log_pb2.FollowLogsRequest(deployment_id=deployment, after=after), timeout=None)
    async with contextlib.aclosing(call):
        async for message in call:
            assert message.gap == 0
            positions += [entry.position for entry in message.entries]
            if len(positions) >= count:
                return positions
    return positions


async def test_followers_see_every_line_once_from_history_into_the_present(log: Log) -> None:
    deployment = new_id()
    followers = [asyncio.create_task(_follow(log, deployment, count=6000)) for _ in range(2)]
    for number in range(60):
        first = number * 100 + 1
        await log.send(batch(deployment, range(first, first + 100)))
        if number in (7, 20, 40):
            followers.append(asyncio.create_task(_follow(log, deployment, count=6000)))
    async with asyncio.timeout(30):
        for positions in await asyncio.gather(*followers):
            assert positions == list(range(1, 6001))


async def test_a_follower_of_another_process_sees_the_lines_too(settings: LogSettings, shipoff_home, eventually) -> None:
    other = settings.model_copy(update={"listen": f"unix:{shipoff_home}/run/grpc/log2.sock"})
    deployment = new_id()
    async with running(settings), running(other), connected(settings) as one, connected(other) as two:
        followers = [asyncio.create_task(_follow(log, deployment, count=2000)) for log in (one, two)]
        for number in range(200):
            await one.send(batch(deployment, range(1, 11), stream=str(number)))
        async with asyncio.timeout(30):
            for positions in await asyncio.gather(*followers):
                assert positions == list(range(1, 2001))


async def test_a_slow_follower_is_told_what_it_missed_and_goes_on_in_order(log: Log, eventually) -> None:
    deployment = new_id()
    call = log.stub.FollowLogs(log_pb2.FollowLogsRequest(deployment_id=deployment), timeout=None)
    positions, gaps = [], 0
    async with contextlib.aclosing(call), asyncio.timeout(60):
        await log.send(batch(deployment, range(1, 2)))
        message = await anext(call)
        positions += [entry.position for entry in message.entries]
        # Far more than the connection's window and the buffer hold while nobody reads.
        for first in range(2, 60_002, 500):
            await log.send(batch(deployment, range(first, first + 500), text="x" * 400))
        await eventually(lambda: log.entries(deployment, after=60_000), timeout_s=30)
        while not positions or positions[-1] < 60_001:
            message = await anext(call)
            gaps += message.gap
            positions += [entry.position for entry in message.entries]
    assert positions == sorted(set(positions))
    assert gaps > 0
    assert len(positions) + gaps == 60_001


async def test_stopping_ends_followers_at_once(settings: LogSettings, eventually) -> None:
    deployment = new_id()
    async with contextlib.AsyncExitStack() as stack:
        service = await stack.enter_async_context(contextlib.AsyncExitStack())
        await service.enter_async_context(running(settings))
        log = await stack.enter_async_context(connected(settings))
        following = asyncio.create_task(_follow(log, deployment, count=10))
        await log.send(batch(deployment, range(1, 2)))
        await eventually(lambda: _count(log, deployment, 1))
        started = asyncio.get_running_loop().time()
        await service.aclose()
        with pytest.raises(Unavailable):
            await following
        assert asyncio.get_running_loop().time() - started < 4


async def test_lines_survive_a_restart_and_the_rest_is_taken_up(settings: LogSettings, eventually) -> None:
    deployment = new_id()
    async with running(settings), connected(settings) as log:
        await log.send(batch(deployment, range(1, 11)))
        await eventually(lambda: _count(log, deployment, 10))
    async with connected(settings) as log:
        await log.send(batch(deployment, range(11, 21)))
        async with running(settings):
            await eventually(lambda: _count(log, deployment, 20))
            assert await log.texts(deployment) == [f"line {n}" for n in range(1, 21)]


async def test_what_a_killed_process_had_taken_is_taken_over_and_not_lost(settings: LogSettings, eventually) -> None:
    deployment = new_id()
    patient = settings.model_copy(update={"hole_patience_s": 8.0, "reclaim_idle_s": 0.5})
    async with connected(settings) as log:
        await log.streams.client.xgroup_create(LOGS_INGEST, "log", id="0", mkstream=True)
        await log.send(batch(deployment, range(1, 11)))
        await log.streams.client.xreadgroup("log", "killed", {LOGS_INGEST: ">"})
        await log.send(batch(deployment, range(11, 21)))
        async with running(patient):
            await eventually(lambda: _count(log, deployment, 20))
            entries = await log.entries(deployment)
            assert sorted(entry.line.sequence for entry in entries) == list(range(1, 21))
            assert [entry.position for entry in entries] == list(range(1, 21))


async def test_old_lines_and_those_beyond_the_cap_are_removed(settings: LogSettings, eventually) -> None:
    capped = settings.model_copy(update={"deployment_lines": 1000})
    deployment, old = new_id(), new_id()
    async with running(capped), connected(capped) as log:
        await log.send(batch(old, range(1, 11)))
        for first in range(1, 3001, 100):
            await log.send(batch(deployment, range(first, first + 100)))
            await asyncio.sleep(0)
        await eventually(lambda: _is_capped(log, deployment))
        async with log.database.transaction() as tx:
            await tx.execute(_AGE, {"id": old})
        await eventually(lambda: _count(log, old, 0))
        # The cursor of whoever read before stays good.
        await log.send(batch(old, range(11, 12)))
        await eventually(lambda: _count(log, old, 1))
        assert (await log.entries(old))[0].position == 11


async def _is_capped(log: Log, deployment: str) -> bool:
    positions = [entry.position for entry in await log.entries(deployment, limit=10000)]
    return bool(positions) and positions[-1] == 3000 and positions[0] > 1 and len(positions) < 3000
