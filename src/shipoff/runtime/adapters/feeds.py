"""What a command writes, on its way to whoever reads it: bounded, so that a slow reader holds the command up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from shipoff.runtime.domain import Exited, Output

_WAITING = 16


class Feed:
    """A queue of events with one end."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Output | Exited] = asyncio.Queue(_WAITING)

    @property
    def is_full(self) -> bool:
        """Whether it waits for its reader."""
        return self._queue.full()

    async def put(self, event: Output | Exited) -> None:
        """Waits for room."""
        await self._queue.put(event)

    async def events(self) -> AsyncGenerator[Output | Exited, None]:
        """Everything up to the end."""
        while True:
            event = await self._queue.get()
            yield event
            if isinstance(event, Exited):
                return
