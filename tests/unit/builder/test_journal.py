"""Lines on their way: numbered, resumed, bounded."""

from __future__ import annotations

import asyncio

import pytest

from shipoff.builder import journal as module
from shipoff.builder.journal import Journal


async def test_lines_are_sent_once_and_again_from_where_a_session_resumes():
    journal = Journal(1 << 20)
    await journal.write(["a", "b", "c"], channel="stdout")
    assert [line.sequence for line in await journal.batch()] == [1, 2, 3]
    await journal.stored(1)
    await journal.resume(2)
    assert [line.text for line in await journal.batch()] == ["b", "c"]
    await journal.stored(3)
    await asyncio.wait_for(journal.all_stored(), 1)


async def test_what_the_service_had_stored_before_the_break_is_not_sent_again():
    journal = Journal(1 << 20)
    await journal.write(["a", "b"], channel="")
    await journal.batch()
    await journal.resume(3)
    await journal.write(["c"], channel="")
    assert [(line.sequence, line.text) for line in await journal.batch()] == [(3, "c")]


async def test_a_full_buffer_makes_writers_wait(monkeypatch):
    monkeypatch.setattr(module, "BUFFER_BYTES", 100)
    journal = Journal(1 << 20)
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
    journal = Journal(1 << 20)
    await journal.write(["a", "b", "c"], channel="")
    assert [len(await journal.batch()), len(await journal.batch())] == [2, 1]


async def test_output_beyond_the_limit_is_left_out_of_whoever_it_is_and_that_is_said_once():
    journal = Journal(2 << 20)
    await journal.output(["a"], channel="stdout", size=1 << 20)
    # It is written while another program goes beyond.
    await asyncio.gather(*(journal.output([text], channel="stderr", size=1 << 20) for text in ("b", "c", "d")))
    await journal.output(["e"], channel="stdout", size=1)
    await journal.write(["own"], channel="")
    told = [(line.channel, line.text) for line in await journal.batch()]
    said = "… more than 2 MiB of output: the rest is left out"
    assert told == [("stdout", "a"), ("stderr", "b"), ("stderr", "c"), ("", said), ("", "own")]
