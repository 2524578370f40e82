"""How much one caller may ask: token buckets for requests, slots for open streams. In memory, of this process."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from weakref import WeakValueDictionary

from shipoff.common.errors import Unavailable
from shipoff.gateway.problems import Refused

_MOST_KEYS = 20_000
# An ordinary delivery has some ten thousand bytes.
_SMALL_BYTES = 256 << 10
_LARGE_AT_ONCE = 8
# Of one address: nobody keeps everybody else's out by sending slowly.
_LARGE_EACH = 4
# GitHub gives up after ten seconds and does not come again: what is in line by then is worked on all the same, however busy
# the machine is.
_LONGEST_WAIT_S = 120.0


@dataclass
class _Bucket:
    level: float
    at_s: float


class Buckets:
    """A token bucket a key: `burst` at once, `per_s` on average. The keys that were idle longest are forgotten first."""

    def __init__(self, *, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._burst, self._clock = per_s, burst, clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def _level(self, key: str) -> _Bucket:
        now_s = self._clock()
        bucket = self._buckets.pop(key, None) or _Bucket(self._burst, now_s)
        bucket.level = min(self._burst, bucket.level + (now_s - bucket.at_s) * self._per_s)
        bucket.at_s = now_s
        self._buckets[key] = bucket
        if len(self._buckets) > _MOST_KEYS:
            self._buckets.popitem(last=False)
        return bucket

    def wait_s(self, key: str) -> float:
        """Seconds until the next one is allowed; 0 when it is now. Takes nothing."""
        return max(0.0, (1 - self._level(key).level) / self._per_s)

    def take(self, key: str) -> None:
        """Takes one. Raises Refused (429) with the wait when there is none."""
        bucket = self._level(key)
        if bucket.level < 1:
            raise too_many("too many requests", self.wait_s(key))
        bucket.level -= 1


class DeliveryRoom:
    """Room for webhook deliveries: an address has a bucket of its own, and a burst waits in line instead of being refused.

    Their senders cannot be known before their bodies are there, so that only a few large ones are held at one time.
    """

    def __init__(self, buckets: Buckets, *, at_once: int) -> None:
        self._buckets = buckets
        self._large, self._turns = asyncio.Semaphore(_LARGE_AT_ONCE), asyncio.Semaphore(at_once)
        # For as long as somebody holds or waits for one.
        self._large_of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def admit(self, address: str) -> None:
        """Raises Refused (429) for an address that sends without end."""
        self._buckets.take(address)

    @asynccontextmanager
    async def reading(self, address: str, size_bytes: int | None) -> AsyncIterator[None]:
        """Held while a body of this size, None where it is not known, is read and worked on.

        Raises Unavailable after a time.
        """
        if size_bytes is not None and size_bytes <= _SMALL_BYTES:
            yield
            return
        own = self._large_of.setdefault(address, asyncio.Semaphore(_LARGE_EACH))
        async with _soon(own), _soon(self._large):
            yield

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Held while a delivery is worked on. Raises Unavailable after a time."""
        return _soon(self._turns)


@asynccontextmanager
async def _soon(room: asyncio.Semaphore) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_LONGEST_WAIT_S):
            await room.acquire()
    except TimeoutError as error:
        raise Unavailable("too many deliveries at once", retry_after_s=_LONGEST_WAIT_S) from error
    try:
        yield
    finally:
        room.release()


class Slots:
    """How many streams are open, for each user and in all."""

    def __init__(self, *, each: int, in_all: int) -> None:
        self._each, self._in_all = each, in_all
        self._open: Counter[str] = Counter()

    @contextmanager
    def held(self, key: str) -> Iterator[None]:
        """Holds a slot for the block. Raises Refused (429) when there is none."""
        if self._open[key] >= self._each or self._open.total() >= self._in_all:
            raise too_many("too many open streams", 5.0)
        self._open[key] += 1
        try:
            yield
        finally:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]


def too_many(message: str, wait_s: float) -> Refused:
    """429 (RFC 6585, section 4) with the seconds to wait."""
    return Refused(HTTPStatus.TOO_MANY_REQUESTS, message, retry_after_s=wait_s, remedy="wait as long as Retry-After says")
