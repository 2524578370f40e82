"""Group commit: what comes while a batch is under way makes the next one. Used where one transaction for many is cheaper."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

from shipoff.common.errors import TemporaryError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Calls `process` with up to `most` items, one batch after the other. Nothing is waited for: one item alone is a batch.

    A batch that fails is tried one by one, so that each item gets its own error; where something is away, all get that.
    """

    def __init__(self, process: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]], *, most: int) -> None:
        self._process = process
        self._most = most
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Result:
        """The item's own result, in the order of `process`'s answer. Raises what that raises."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._running is None:
            # A batch is not done under the ids of whoever came first.
            self._running = asyncio.create_task(self._run(), name="batches", context=Context())
        return await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                await self._settle(batch)
        finally:
            self._running = None

    async def _settle(self, batch: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._process([item for item, _ in batch])
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, TemporaryError):
                for one in batch:
                    await self._settle([one])
                return
            for _, future in batch:
                # Whoever asked may have given up.
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
