"""Keeps deliveries under way: a bounded number at once, one a hook, each in a task of its own."""

from __future__ import annotations

import asyncio
import contextlib
import time

import structlog

from shipoff.common.errors import TemporaryError
from shipoff.worker.domain import Claim
from shipoff.worker.handlers import deliver
from shipoff.worker.ports import Deliveries, Seal, Sender

_SLOTS = 16
_DRAIN_S = 3.0

log = structlog.get_logger()


class Dispatcher:
    """Claims what is due and sends it. `wake` is set whenever there may be more to do."""

    def __init__(self, deliveries: Deliveries, sender: Sender, seal: Seal, wake: asyncio.Event) -> None:
        self._deliveries = deliveries
        self._sender = sender
        self._seal = seal
        self._wake = wake
        self._tasks: set[asyncio.Task[None]] = set()

    async def dispatch(self) -> None:
        """Starts as many due deliveries as there is room for."""
        free = _SLOTS - len(self._tasks)
        for claim in await self._deliveries.claim(free) if free else []:
            task = asyncio.create_task(self._deliver(claim), name=f"deliver {claim.delivery_id}")
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._wake.set()

    async def _deliver(self, claim: Claim) -> None:
        """One try. What fails here is tried again when the lease has run out."""
        try:
            await deliver(self._deliveries, self._sender, self._seal, claim, now_s=int(time.time()))
        except TemporaryError as error:
            log.warning("hook delivery not recorded", delivery_id=claim.delivery_id, error=str(error))
        except Exception as error:
            log.exception("hook delivery failed", delivery_id=claim.delivery_id, error=str(error))

    async def drain(self) -> None:
        """Waits a moment for what is under way, then leaves the rest to its leases."""
        tasks = set(self._tasks)
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=_DRAIN_S)
        for task in late:
            task.cancel()
        for task in late:
            with contextlib.suppress(asyncio.CancelledError):
                await task
