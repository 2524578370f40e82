"""The periodic sweep: archives that nobody used for long are removed."""

from __future__ import annotations

import structlog

from shipoff.project.ports import Archives, Store

_BATCH = 20

log = structlog.get_logger()


async def sweep_archives(store: Store, archives: Archives, *, kept_days: int) -> None:
    """Removes stale archives, object and record, a batch a transaction."""
    while True:
        async with store.work() as work:
            keys = await work.take_stale_archives(kept_days, limit=_BATCH)
            # In the transaction: an upload of the same archive waits for its end, and stores it anew.
            for key in keys:
                await archives.delete(key)
        if keys:
            log.info("archives removed", count=len(keys))
        if len(keys) < _BATCH:
            return
