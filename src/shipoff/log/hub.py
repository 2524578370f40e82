"""Fan-out of fresh chunks to those who follow, within this process.

A subscription buffers what is stored while its reader is busy. The buffer is bounded: a reader who is slower than the lines is
told how many it missed. What the buffer cannot vouch for (another process stored it) is read from the database instead.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from shipoff.common.errors import Unavailable
from shipoff.log.domain import Chunk, Query

# One message to a reader holds about so many lines.
_PIECE_LINES = 1000


@dataclass(frozen=True)
class Piece:
    """Chunks that follow what the reader has, after so many left out."""

    gap: int
    chunks: list[Chunk]


class Subscription:
    """One reader's view of a deployment's fresh chunks."""

    def __init__(self, query: Query, *, buffer_lines: int) -> None:
        self.query = query
        self._limit = buffer_lines
        self._buffer: deque[Chunk] = deque()
        self._buffered = 0
        self._known_last = 0
        self._gap = 0
        self._skipped_to = 0
        self._live = False
        self._closed = False
        self._wake = asyncio.Event()

    def offer(self, chunk: Chunk) -> None:
        """Takes a chunk that was just stored."""
        self._buffer.append(chunk)
        self._buffered += chunk.count
        while self._buffered > self._limit and len(self._buffer) > 1:
            self._overflow(self._buffer.popleft())
        self._wake.set()

    def _overflow(self, chunk: Chunk) -> None:
        self._buffered -= chunk.count
        # A reader of history will find it in the database; a live one has missed it.
        if self._live:
            self._skipped_to = chunk.last_position
            if self.query.wants(chunk.source):
                self._gap += chunk.count

    def reached(self, last_position: int) -> None:
        """Learns what the database has, whoever stored it."""
        self._known_last = max(self._known_last, last_position)
        self._wake.set()

    def close(self) -> None:
        """Ends the reader's wait: the service is stopping."""
        self._closed = True
        self._wake.set()

    async def next(self, cursor: int) -> Piece | None:
        """What follows the cursor, as soon as there is something; None: it has to be read from the database.

        Raises Unavailable when the service is stopping.
        """
        self._live = True
        while True:
            self._wake.clear()
            if self._closed:
                raise Unavailable("the log service is stopping", remedy="follow again after the last position")
            self._discard(cursor)
            if self._buffer or self._known_last > cursor:
                piece = self._take(max(cursor, self._skipped_to))
                self._live = piece is not None
                return piece
            await self._wake.wait()

    def _discard(self, cursor: int) -> None:
        while self._buffer and self._buffer[0].last_position <= cursor:
            self._buffered -= self._buffer.popleft().count

    def _take(self, cursor: int) -> Piece | None:
        chunks: list[Chunk] = []
        lines = 0
        while self._buffer and self._buffer[0].first_position <= cursor + 1 and lines < _PIECE_LINES:
            chunk = self._buffer.popleft()
            self._buffered -= chunk.count
            chunks.append(chunk)
            lines += chunk.count
            cursor = chunk.last_position
        if not chunks:
            return None
        gap, self._gap = self._gap, 0
        return Piece(gap, chunks)


class Hub:
    """Who follows what."""

    def __init__(self, *, buffer_lines: int) -> None:
        self._buffer_lines = buffer_lines
        self._subscriptions: dict[str, set[Subscription]] = defaultdict(set)

    @contextmanager
    def subscribed(self, query: Query) -> Iterator[Subscription]:
        """A subscription that buffers from now on."""
        subscription = Subscription(query, buffer_lines=self._buffer_lines)
        self._subscriptions[query.deployment_id].add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions[query.deployment_id].discard(subscription)
            if not self._subscriptions[query.deployment_id]:
                del self._subscriptions[query.deployment_id]

    def followed(self) -> list[str]:
        """The deployments that somebody follows."""
        return list(self._subscriptions)

    def publish(self, chunks: Iterable[Chunk]) -> None:
        """Hands chunks that are durable to those who follow."""
        for chunk in chunks:
            for subscription in self._subscriptions.get(chunk.deployment_id, ()):
                subscription.offer(chunk)

    def reached(self, last_positions: Mapping[str, int]) -> None:
        """Wakes those who are behind the database."""
        for deployment_id, last in last_positions.items():
            for subscription in self._subscriptions.get(deployment_id, ()):
                subscription.reached(last)

    def close(self) -> None:
        """Ends every subscription."""
        for subscriptions in list(self._subscriptions.values()):
            for subscription in subscriptions:
                subscription.close()
