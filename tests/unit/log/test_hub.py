"""What a reader gets who is as fast as the lines, and one who is not."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from shipoff.common.errors import Unavailable
from shipoff.log.domain import Chunk, Query
from shipoff.log.hub import Hub

NOW = datetime(2026, 1, 1, tzinfo=UTC)
QUERY = Query("d")


def chunk(first: int, last: int, source: int = 1) -> Chunk:
    return Chunk("d", first, last, source, 0, NOW, NOW, NOW, b"")


def spans(chunks: list[Chunk]) -> list[tuple[int, int]]:
    return [(c.first_position, c.last_position) for c in chunks]


async def test_fresh_chunks_follow_the_cursor() -> None:
    hub = Hub(buffer_lines=100)
    with hub.subscribed(QUERY) as subscription:
        hub.publish([chunk(1, 5), chunk(6, 7)])
        piece = await subscription.next(3)
        assert piece is not None
        assert (piece.gap, spans(piece.chunks)) == (0, [(1, 5), (6, 7)])


async def test_what_another_process_stored_is_read_from_the_database() -> None:
    hub = Hub(buffer_lines=100)
    with hub.subscribed(QUERY) as subscription:
        hub.publish([chunk(6, 7)])
        assert await subscription.next(3) is None
        piece = await subscription.next(5)
        assert piece is not None
        assert spans(piece.chunks) == [(6, 7)]
        waiting = asyncio.ensure_future(subscription.next(7))
        await asyncio.sleep(0)
        hub.reached({"d": 9})
        assert await waiting is None


async def test_a_slow_live_reader_is_told_how_many_lines_it_missed() -> None:
    hub = Hub(buffer_lines=10)
    with hub.subscribed(Query("d", sources=frozenset({1}))) as subscription:
        hub.publish([chunk(1, 1)])
        assert await subscription.next(0) is not None
        hub.publish([chunk(2, 6), chunk(7, 8, source=2), chunk(9, 13), chunk(14, 15)])
        piece = await subscription.next(1)
        assert piece is not None
        # 2 to 6 did not fit; the buffer holds 7 to 15.
        assert (piece.gap, spans(piece.chunks)) == (5, [(7, 8), (9, 13), (14, 15)])


async def test_a_reader_of_history_misses_nothing_when_the_buffer_runs_over() -> None:
    hub = Hub(buffer_lines=10)
    with hub.subscribed(QUERY) as subscription:
        hub.publish([chunk(1, 8), chunk(9, 16)])
        assert await subscription.next(0) is None
        piece = await subscription.next(8)
        assert piece is not None
        assert (piece.gap, spans(piece.chunks)) == (0, [(9, 16)])


async def test_stopping_ends_those_who_wait() -> None:
    hub = Hub(buffer_lines=10)
    with hub.subscribed(QUERY) as subscription:
        waiting = asyncio.ensure_future(subscription.next(0))
        await asyncio.sleep(0)
        hub.close()
        with pytest.raises(Unavailable):
            await waiting
    assert hub.followed() == []
