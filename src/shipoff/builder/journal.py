"""The build's log on its way: numbered, held until the service has stored it, bounded."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import UTC, datetime

from shipoff.builder.masking import Masker
from shipoff.contracts.types.v1 import types_pb2

# What may wait to be stored: more, and the steps' output waits instead (backpressure through their pipes).
BUFFER_BYTES = 4 << 20
BATCH_LINES = 500
BATCH_BYTES = 256 << 10
# A line's own cost beside its text.
_LINE_COST = 64


class Journal:
    """Lines in order from 1, without holes. One producer side (`write`), one consumer side (the session)."""

    def __init__(self, output_bytes: int) -> None:
        self._unstored: deque[types_pb2.LogLine] = deque()
        self._bytes = 0
        self._last = 0
        self._sent = 0
        self._changed = asyncio.Condition()
        # Of what programs write: so much is kept, so much has come.
        self._output_limit = output_bytes
        self._output = 0
        self.masker = Masker(())

    async def say(self, text: str) -> None:
        """A line of the builder's own."""
        await self.write([self.masker.mask(text)], channel="")

    async def output(self, texts: list[str], *, channel: str, size: int) -> None:
        """What came of `size` bytes that a program wrote, masked: beyond the limit it is left out, which is said once."""
        if self._output > self._output_limit:
            return
        self._output += size
        full = self._output > self._output_limit
        await self.write(texts, channel=channel)
        if full:
            await self.say(f"… more than {self._output_limit >> 20} MiB of output: the rest is left out")

    async def write(self, texts: list[str], *, channel: str) -> None:
        """Appends lines that are already masked; waits while too much is not stored yet."""
        async with self._changed:
            for text in texts:
                await self._changed.wait_for(lambda: self._bytes < BUFFER_BYTES)
                self._last += 1
                line = types_pb2.LogLine(sequence=self._last, text=text, channel=channel)
                line.time.FromDatetime(datetime.now(UTC))
                self._unstored.append(line)
                self._bytes += _cost(line)
            self._changed.notify_all()

    async def resume(self, next_sequence: int) -> None:
        """A session begins: everything from this sequence on is to be sent (again)."""
        async with self._changed:
            self._forget(next_sequence - 1)
            self._sent = next_sequence - 1
            self._changed.notify_all()

    async def stored(self, sequence: int) -> None:
        """Everything up to this sequence is safe."""
        async with self._changed:
            self._forget(sequence)
            self._changed.notify_all()

    def _forget(self, sequence: int) -> None:
        while self._unstored and self._unstored[0].sequence <= sequence:
            self._bytes -= _cost(self._unstored.popleft())

    async def batch(self) -> list[types_pb2.LogLine]:
        """The next lines to send; waits until there are any."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._last > self._sent)
            lines: list[types_pb2.LogLine] = []
            size = 0
            for line in self._unstored:
                if line.sequence <= self._sent:
                    continue
                if lines and (len(lines) == BATCH_LINES or size + _cost(line) > BATCH_BYTES):
                    break
                lines.append(line)
                size += _cost(line)
            self._sent = lines[-1].sequence
            return lines

    async def all_stored(self) -> None:
        """Returns once nothing waits to be stored."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._unstored)


def _cost(line: types_pb2.LogLine) -> int:
    return len(line.text) + _LINE_COST
