"""Token buckets and slots, on a clock that the test moves."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from shipoff.common.errors import Unavailable
from shipoff.gateway import limits
from shipoff.gateway.limits import Buckets, DeliveryRoom, Slots
from shipoff.gateway.problems import Refused


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_burst_passes_and_the_rest_waits_for_the_rate() -> None:
    clock = Clock()
    buckets = Buckets(per_s=2, burst=3, clock=clock)
    for _ in range(3):
        buckets.take("a")
    with pytest.raises(Refused) as raised:
        buckets.take("a")
    assert (raised.value.status, raised.value.retry_after_s) == (429, pytest.approx(0.5))
    clock.now_s += 0.5
    buckets.take("a")
    with pytest.raises(Refused):
        buckets.take("a")


def test_keys_do_not_share_a_bucket() -> None:
    buckets = Buckets(per_s=1, burst=1, clock=Clock())
    buckets.take("a")
    buckets.take("b")


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    clock = Clock()
    buckets = Buckets(per_s=100, burst=2, clock=clock)
    buckets.take("a")
    clock.now_s += 3600
    buckets.take("a")
    buckets.take("a")
    with pytest.raises(Refused):
        buckets.take("a")


def test_looking_takes_nothing() -> None:
    buckets = Buckets(per_s=1, burst=1, clock=Clock())
    assert [buckets.wait_s("a") for _ in range(5)] == [0.0] * 5
    buckets.take("a")
    assert buckets.wait_s("a") == 1.0


def test_the_number_of_keys_is_bounded_and_a_busy_one_is_kept() -> None:
    buckets = Buckets(per_s=0.001, burst=1, clock=Clock())
    buckets.take("busy")
    for number in range(21_000):
        buckets.take(str(number))
        if number % 1000 == 0:
            assert buckets.wait_s("busy") > 0
    assert len(buckets) <= 20_000


def test_slots_are_given_back_also_after_an_error() -> None:
    slots = Slots(each=1, in_all=2)
    for _ in range(3):
        with pytest.raises(RuntimeError), slots.held("a"):
            raise RuntimeError
    with slots.held("a"), slots.held("b"):
        with pytest.raises(Refused), slots.held("a"):
            raise AssertionError
        with pytest.raises(Refused), slots.held("c"):
            raise AssertionError
    with slots.held("c"):
        pass


def _room(at_once: int) -> DeliveryRoom:
    return DeliveryRoom(Buckets(per_s=1, burst=1, clock=Clock()), at_once=at_once)


async def test_a_delivery_whose_turn_does_not_come_is_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_LONGEST_WAIT_S", 0.01)
    room = _room(1)
    async with room.turn():
        with pytest.raises(Unavailable):
            await room.turn().__aenter__()
    async with room.turn():
        pass


async def test_one_address_that_sends_slowly_leaves_room_for_the_large_deliveries_of_another() -> None:
    room = _room(1)
    async with AsyncExitStack() as stack:
        slow = [asyncio.create_task(stack.enter_async_context(room.reading("slow", None))) for _ in range(20)]
        await asyncio.sleep(0)
        async with asyncio.timeout(10), room.reading("other", None), room.reading("slow", 10):
            pass
        assert sum(one.done() for one in slow) == 4
        for one in slow:
            one.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
