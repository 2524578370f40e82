"""Start order, supervised loops, and a drain on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from shipoff.common.errors import TemporaryError

log = structlog.get_logger()

_FIRST_BACKOFF_S = 0.2
_LONGEST_BACKOFF_S = 10.0
_CANCEL_AGAIN_S = 1.0


async def _supervise(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Runs `work` again whenever it fails, later each time; ends when it returns."""
    backoff_s = _FIRST_BACKOFF_S
    loop = asyncio.get_running_loop()
    while True:
        started = loop.time()
        try:
            await work()
            return
        except Exception as error:
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]  # this is a coroutine of a task
                return
            if loop.time() - started > _LONGEST_BACKOFF_S:
                backoff_s = _FIRST_BACKOFF_S
            log.warning(
                "loop failed",
                loop=name,
                error=str(error),
                retry_s=backoff_s,
                exc_info=not isinstance(error, TemporaryError),
            )
        await asyncio.sleep(backoff_s)
        backoff_s = min(backoff_s * 2, _LONGEST_BACKOFF_S)


async def _cancelled(task: asyncio.Task[None]) -> None:
    """Cancels until it has ended: a driver that is cancelled in mid-call may raise an error of its own instead."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_CANCEL_AGAIN_S)


@asynccontextmanager
async def background(name: str, work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Runs `work` beside the block; it is restarted when it fails and cancelled when the block is left."""
    task = asyncio.create_task(_supervise(name, work), name=name)
    try:
        yield
    finally:
        await _cancelled(task)


@asynccontextmanager
async def looping(
    name: str, work: Callable[[], Awaitable[None]], *, every_s: float | Callable[[], float], wake: asyncio.Event | None = None
) -> AsyncIterator[None]:
    """Calls `work` every `every_s` seconds (asked anew each time where it is a function), and at once when `wake` is set."""

    async def loop() -> None:
        while True:
            if wake is not None:
                wake.clear()
            await work()
            pause_s = every_s() if callable(every_s) else every_s
            if wake is None:
                await asyncio.sleep(pause_s)
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(wake.wait(), pause_s)

    async with background(name, loop):
        yield


async def until_signal() -> None:
    """Returns when the process is asked to stop (SIGTERM, SIGINT)."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)
