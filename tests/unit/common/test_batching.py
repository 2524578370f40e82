"""What comes together is processed together, and fails alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from shipoff.common.batching import Batcher
from shipoff.common.errors import Contended, InvalidInput, Unavailable


class Doubling:
    """Doubles numbers, remembers its batches, and fails for what it is told to."""

    def __init__(self, failing: dict[int, Exception] | None = None) -> None:
        self.batches: list[list[int]] = []
        self.done: list[int] = []
        self.failing = failing or {}
        self.begun, self.gate = asyncio.Event(), asyncio.Event()
        self.gate.set()

    async def __call__(self, items: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(items))
        self.begun.set()
        await self.gate.wait()
        for item in items:
            if item in self.failing:
                raise self.failing[item]
        self.done += items
        return [2 * item for item in items]


async def test_what_comes_while_a_batch_is_under_way_makes_the_next_one():
    process = Doubling()
    process.gate.clear()
    double = Batcher(process, most=3)
    waiting = [asyncio.create_task(double(1))]
    await process.begun.wait()
    waiting += [asyncio.create_task(double(item)) for item in (2, 3, 4, 5)]
    await asyncio.sleep(0)
    process.gate.set()
    assert await asyncio.gather(*waiting) == [2, 4, 6, 8, 10]
    assert process.batches == [[1], [2, 3, 4], [5]]


async def test_what_is_wrong_fails_alone():
    process = Doubling({2: InvalidInput("two")})
    double = Batcher(process, most=8)
    results = await asyncio.gather(*(double(item) for item in (1, 2, 3)), return_exceptions=True)
    assert results[0] == 2
    assert isinstance(results[1], InvalidInput)
    assert results[2] == 6
    assert await double(4) == 8


async def test_what_is_away_is_asked_once_for_all():
    process = Doubling({2: Unavailable("away")})
    double = Batcher(process, most=8)
    results = await asyncio.gather(*(double(item) for item in (1, 2, 3)), return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable] * 3
    assert process.batches == [[1, 2, 3]]


async def test_what_somebody_else_is_in_the_way_of_fails_alone():
    process = Doubling({2: Contended("locked")})
    double = Batcher(process, most=8)
    results = await asyncio.gather(*(double(item) for item in (1, 2, 3)), return_exceptions=True)
    assert (results[0], type(results[1]), results[2]) == (2, Contended, 6)


async def test_an_answer_for_too_few_leaves_nobody_waiting():
    async def process(items: Sequence[int]) -> Sequence[int]:
        return [1] if len(items) > 1 else [2 * item for item in items]

    double = Batcher(process, most=8)
    assert await asyncio.wait_for(asyncio.gather(*(double(item) for item in (1, 2, 3))), 10) == [2, 4, 6]


async def test_the_batch_under_way_is_waited_for_at_the_end_whoever_gave_up_on_it():
    process = Doubling()
    process.gate.clear()
    double = Batcher(process, most=8)
    async with double.open():
        waiting = asyncio.create_task(double(1))
        await process.begun.wait()
        waiting.cancel()
        asyncio.get_running_loop().call_soon(process.gate.set)
    assert process.done == [1]


async def test_one_who_gave_up_keeps_nobody_else_from_the_answer():
    process = Doubling()
    process.gate.clear()
    double = Batcher(process, most=8)
    impatient, patient = asyncio.create_task(double(1)), asyncio.create_task(double(2))
    await process.begun.wait()
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    process.gate.set()
    assert await patient == 4
