"""streams.deployment.progress → releases that are kept no longer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from shipoff.common.streams import Event
from shipoff.contracts.events.v1 import events_pb2


class Committing(Protocol):
    """A transaction."""

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Calls back once it is durable."""


_Tx = TypeVar("_Tx", bound=Committing)


def expiring(expire: Callable[[_Tx, str], Awaitable[None]], wake: asyncio.Event) -> Callable[[_Tx, Event], Awaitable[None]]:
    """A handler that marks the release of a ReleaseExpired event, and wakes the sweep that removes it."""

    async def handle(tx: _Tx, event: Event) -> None:
        if isinstance(event.message, events_pb2.ReleaseExpired):
            await expire(tx, event.message.deployment_id)
            tx.after_commit(wake.set)

    return handle
