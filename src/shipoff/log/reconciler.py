"""The periodic work: old lines go, lost ones are told, and lines that another process stored reach those who follow here."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import structlog

from shipoff.log import handlers
from shipoff.log.hub import Hub
from shipoff.log.ports import Chunks
from shipoff.log.settings import LogSettings

# A producer that has been silent for so long does not go on with its sequence.
_STREAM_IDLE = timedelta(days=90)

log = structlog.get_logger()


class Upkeep:
    """The loops' bodies."""

    def __init__(self, store: Chunks, hub: Hub, settings: LogSettings) -> None:
        self._store = store
        self._hub = hub
        self._settings = settings

    async def retain(self) -> None:
        """Removes lines that are too old or too many."""
        now = datetime.now(UTC)
        aged = await self._store.delete_before(now - timedelta(days=self._settings.retention_days))
        capped = await self._store.delete_beyond(self._settings.deployment_lines)
        streams = await self._store.forget_streams(now - _STREAM_IDLE)
        if aged or capped or streams:
            log.info("old lines removed", aged_chunks=aged, capped_chunks=capped, streams=streams)

    async def report_holes(self) -> None:
        """Tells of lines that have not arrived in time."""
        now = datetime.now(UTC)
        before = now - timedelta(seconds=self._settings.hole_patience_s)
        await handlers.report_holes(self._store, self._hub, noticed_before=before, now=now)

    async def poll(self) -> None:
        """Wakes followers that are behind the database."""
        followed = self._hub.followed()
        if followed:
            self._hub.reached(await self._store.last_positions(followed))
