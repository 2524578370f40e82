"""streams.deployment.progress → releases that are kept no longer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from shipoff.common.outbox import Handler
from shipoff.common.postgres import Transaction
from shipoff.common.streams import Event
from shipoff.contracts.events.v1 import events_pb2

Expire = Callable[[Transaction, str], Awaitable[None]]


def expiring(expire: Expire, wake: asyncio.Event) -> Handler:
    """A handler that marks the release of a ReleaseExpired event, and wakes the sweep that removes it."""

    async def handle(tx: Transaction, event: Event) -> None:
        if isinstance(event.message, events_pb2.ReleaseExpired):
            await expire(tx, event.message.deployment_id)
            tx.after_commit(wake.set)

    return handle
