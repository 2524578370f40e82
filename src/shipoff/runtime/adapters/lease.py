"""Who of several runtimes on one cluster looks after it: a lease in the database, with a fence that grows with each holder.

Times are the database's. Whatever the holder's reconciler stores checks the fence in its own transaction, and it changes the
cluster only while its lease, counted from before it was asked for, cannot have run out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import sqlalchemy as sa
import structlog

from shipoff.common.errors import TemporaryError, Unavailable
from shipoff.common.ids import new_id
from shipoff.common.lifecycle import background
from shipoff.common.postgres import Database, Transaction

_LOOK_S = 1.0

_ACQUIRE = sa.text("""
    INSERT INTO leases AS held (name, holder, fence, expires_at)
    VALUES (:name, CAST(:holder AS uuid), 1, clock_timestamp() + make_interval(secs => :lease_s))
    ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, fence = held.fence + 1, expires_at = excluded.expires_at
        WHERE held.expires_at < clock_timestamp()
    RETURNING fence""")
_MINE = "name = :name AND holder = CAST(:holder AS uuid) AND fence = :fence AND expires_at > clock_timestamp()"
_RENEW = sa.text(f"UPDATE leases SET expires_at = clock_timestamp() + make_interval(secs => :lease_s) WHERE {_MINE}")
_RELEASE = sa.text(f"UPDATE leases SET expires_at = clock_timestamp() WHERE {_MINE}")
# Whoever takes over waits until what is written under it is written.
_CHECK = sa.text(f"SELECT fence FROM leases WHERE {_MINE} FOR SHARE")

log = structlog.get_logger()


class Lease:
    """One process's part in it."""

    def __init__(self, database: Database, name: str, *, lease_s: float) -> None:
        self._database = database
        self._lease_s = lease_s
        self._names = {"name": name, "holder": new_id()}
        self._fence = 0
        # Of the loop's clock; before it nobody else can hold it.
        self._until = 0.0

    def is_held(self) -> bool:
        """Whether it is surely this process's still."""
        return asyncio.get_running_loop().time() < self._until

    async def check(self, tx: Transaction) -> None:
        """In a transaction that writes as the holder. Raises Unavailable when that is somebody else by now."""
        if await tx.scalar(_CHECK, {**self._names, "fence": self._fence}) is None:
            raise Unavailable("another runtime looks after the cluster by now")

    async def acquire(self) -> bool:
        """Takes it where nobody holds it. Raises TemporaryError."""
        asked_at = asyncio.get_running_loop().time()
        async with self._database.transaction() as tx:
            fence = await tx.scalar(_ACQUIRE, {**self._names, "lease_s": self._lease_s})
        if fence is None:
            return False
        self._fence, self._until = int(fence), asked_at + self._lease_s
        return True

    async def renew(self) -> bool:
        """Holds it for longer; False when it is lost. Raises TemporaryError."""
        asked_at = asyncio.get_running_loop().time()
        async with self._database.transaction() as tx:
            renewed = await tx.execute(_RENEW, {**self._names, "fence": self._fence, "lease_s": self._lease_s})
        self._until = asked_at + self._lease_s if renewed else 0.0
        return bool(renewed)

    async def release(self) -> None:
        """Leaves it to others at once; nothing when it is lost. Raises TemporaryError."""
        self._until = 0.0
        async with self._database.transaction() as tx:
            await tx.execute(_RELEASE, {**self._names, "fence": self._fence})

    async def keep(self) -> None:
        """Renews it in time; returns when it is lost, or might be."""
        while True:
            await asyncio.sleep(self._lease_s / 4)
            try:
                if not await self.renew():
                    return
            except TemporaryError as error:
                log.warning("lease not renewed", error=error.message)
                if not self.is_held():
                    return

    @asynccontextmanager
    async def leading(self, lead: Callable[[], AbstractAsyncContextManager[Any]]) -> AsyncIterator[None]:
        """Beside the block, enters `lead()` whenever this process holds the lease, and leaves it when that is lost."""

        async def look() -> None:
            while True:
                if await self.acquire():
                    await self._lead(lead)
                await asyncio.sleep(min(_LOOK_S, self._lease_s / 4))

        async with background("lead", look):
            yield

    async def _lead(self, lead: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        log.info("leads", fence=self._fence)
        tasks = [asyncio.create_task(self.keep(), name="keep the lease"), asyncio.create_task(_within(lead), name="as leader")]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(TemporaryError):
                await self.release()
            log.info("leads no more", fence=self._fence)


async def _within(lead: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
    async with lead():
        await asyncio.Event().wait()
