"""Lines on their way: numbered, resumed, bounded."""

from __future__ import annotations

import asyncio

import pytest

from shipoff.builder import journal as module
from shipoff.builder.journal import Journal


async def test_lines_are_sent_once_and_again_from_where_a_session_resumes():
    journal = Journal()
    await journal.write(["a", "b", "c"], channel="stdout")
    assert [line.sequence for line in await journal.batch()] == [1, 2, 3]
    await journal.stored(1)
    await journal.resume(2)
    assert [line.text for line in await journal.batch()] == ["b", "c"]
    await journal.stored(3)
    await asyncio.wait_for(journal.all_stored(), 1)


async def test_what_the_service_had_stored_before_the_break_is_not_sent_again():
    journal = Journal()
    await journal.write(["a", "b"], channel="")
    await journal.batch()
    await journal.resume(3)
    await journal.write(["c"], channel="")
    assert [(line.sequence, line.text) for line in await journal.batch()] == [(3, "c")]


async def test_a_full_buffer_makes_writers_wait(monkeypatch):
    monkeypatch.setattr(module, "BUFFER_BYTES", 100)
    journal = Journal()
    await journal.write(["x" * 100], channel="")
    waiting = asyncio.create_task(journal.write(["y"], channel=""))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 0.05)
    await journal.batch()
    await journal.stored(1)
    await asyncio.wait_for(waiting, 1)
    assert [line.text for line in await journal.batch()] == ["y"]


async def test_batches_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "BATCH_LINES", 2)
    journal = Journal()
    await journal.write(["a", "b", "c"], channel="")
    assert [len(await journal.batch()), len(await journal.batch())] == [2, 1]
