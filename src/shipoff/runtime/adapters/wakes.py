"""Wakes whoever leads when another process of the runtime has changed what is wanted: over Redis, and lost without harm.

What is wanted is in the database, where the leader finds it in time by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from redis.exceptions import RedisError

from shipoff.common.lifecycle import background
from shipoff.common.streams import Streams

_CHANNEL = "runtime.wakes"
_WAITING = 1000
_LISTEN_S = 5.0

log = structlog.get_logger()


class Wakes:
    """One process's side of the channel."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._told: asyncio.Queue[str] = asyncio.Queue(_WAITING)

    def tell(self, deployment_id: str) -> None:
        """Has the leader look at a workload."""
        if not self._told.full():
            self._told.put_nowait(deployment_id)

    @asynccontextmanager
    async def telling(self) -> AsyncIterator[None]:
        """Passes on what is told, beside the block."""
        async with background("tell the leader", self._publish):
            yield

    @asynccontextmanager
    async def listening(self, wake: Callable[[str], None]) -> AsyncIterator[None]:
        """Calls `wake` with whatever anybody tells, beside the block."""

        async def listen() -> None:
            async with self._streams.client.pubsub(ignore_subscribe_messages=True) as channel:
                await channel.subscribe(_CHANNEL)
                while True:
                    message = await channel.get_message(timeout=_LISTEN_S)
                    if message is not None:
                        wake(message["data"].decode())

        async with background("listen to the others", listen):
            yield

    async def _publish(self) -> None:
        while True:
            deployment_id = await self._told.get()
            try:
                await self._streams.client.publish(_CHANNEL, deployment_id)
            except (RedisError, OSError) as error:
                log.info("the leader was not woken", error=str(error))
