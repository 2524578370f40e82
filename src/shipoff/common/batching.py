"""Group commit: what comes while a batch is under way makes the next one. Used where one transaction for many is cheaper."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from typing import Generic, TypeVar

from shipoff.common.errors import Contended, TemporaryError

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
            # With no context of its own: a batch is several callers' work.
            self._running = asyncio.create_task(self._run(), name="batches", context=Context())
        return await future

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """What `process` uses has to outlive the block: at its end the batch under way is waited for, whoever gave up on it."""
        try:
            yield
        finally:
            if self._running is not None:
                await asyncio.wait([self._running])

    async def _run(self) -> None:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                await self._settle(batch)
        finally:
            self._running = None
            # Nobody waits for good; those that have their answer are not changed by it.
            for _, future in (*batch, *self._waiting):
                future.cancel()
            self._waiting.clear()

    async def _settle(self, batch: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._process([item for item, _ in batch])
            settled = list(zip(batch, results, strict=True))
        except Exception as error:
            if len(batch) > 1 and (isinstance(error, Contended) or not isinstance(error, TemporaryError)):
                for one in batch:
                    await self._settle([one])
                return
            for _, future in batch:
                # Whoever asked may have given up.
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in settled:
            if not future.done():
                future.set_result(result)
