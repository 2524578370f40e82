"""The use cases: store batches, report what was lost, read a page, follow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.log.v1 import log_pb2
from shipoff.log import chunks as codec
from shipoff.log.domain import Chunk, Owner, Query
from shipoff.log.hub import Hub
from shipoff.log.ports import Chunks

Clock = Callable[[], datetime]

# A page ends after so many bytes of lines, below what a message may hold.
_PAGE_BYTES = 4 << 20
_FOLLOW_LINES = 2000
_FIRST_CHUNKS, _MOST_CHUNKS = 8, 256


@dataclass(frozen=True)
class Page:
    """A page of history, oldest first."""

    entries: list[log_pb2.Entry]
    # There are more wanted lines after the last one.
    more: bool
    # Every wanted line up to this position has been read.
    through: int


@dataclass(frozen=True)
class Followed:
    """What a follower is handed: so many left out, then entries."""

    gap: int
    entries: Sequence[log_pb2.Entry]


async def ingest(store: Chunks, hub: Hub, batches: Sequence[events_pb2.LogBatch], *, now: datetime) -> int:
    """Stores what is new of the batches in one transaction, then hands it to those who follow; the number of lines stored."""
    owners = {batch.deployment_id: Owner(batch.project_id, batch.team_id) for batch in batches}
    instances = {codec.key_of(batch): batch.instance for batch in batches}
    async with store.writing() as tx:
        last_positions = await tx.lock(owners)
        before = await tx.progress(instances)
        planned = await asyncio.to_thread(codec.plan, batches, last_positions, before, now=now)
        await tx.append(planned.chunks)
        await tx.save_progress(before, planned.progress, instances)
    hub.publish(planned.chunks)
    return sum(chunk.count for chunk in planned.chunks)


async def report_holes(store: Chunks, hub: Hub, *, noticed_before: datetime, now: datetime) -> None:
    """Writes a line of the platform's for every run of lines that has not arrived since."""
    for deployment_id in await store.deployments_with_due_holes(noticed_before=noticed_before):
        async with store.writing() as tx:
            last = (await tx.lock({deployment_id: Owner("", "")}))[deployment_id]
            chunks: list[Chunk] = []
            for due in await tx.due_holes(deployment_id, noticed_before=noticed_before):
                text = lost_text(due.hole.count)
                chunks.append(codec.platform_chunk(deployment_id, last, instance=due.instance, text=text, now=now))
                last += 1
                await tx.mark_reported(due)
            await tx.append(chunks)
        hub.publish(chunks)


def lost_text(count: int) -> str:
    """The line that stands for lines that never arrived."""
    return f"{count} {'line was' if count == 1 else 'lines were'} lost on the way to the log"


async def read(store: Chunks, query: Query) -> Page:
    """A page of history: up to `query.limit` lines, ended early by its size."""
    last = (await store.last_positions([query.deployment_id])).get(query.deployment_id, 0)
    if query.tail:
        found, _ = await _collect(store, query)
        return Page(found[::-1], more=False, through=max([last, *(entry.position for entry in found[:1])]))
    found, more = await _collect(store, query)
    ends = [entry.position for entry in found[-1:]]
    return Page(found, more=more, through=ends[0] if more else max([last, query.after, *ends]))


async def _collect(store: Chunks, query: Query) -> tuple[list[log_pb2.Entry], bool]:
    """Wanted entries in the order the store gives them, and whether there are more."""
    found: list[log_pb2.Entry] = []
    size = 0
    page, seek = _FIRST_CHUNKS, query
    while True:
        rows = await store.read(seek, chunks=page)
        for chunk in rows:
            entries = await asyncio.to_thread(codec.wanted, chunk, query)
            for entry in reversed(entries) if query.tail else entries:
                if len(found) == query.limit or size > _PAGE_BYTES:
                    return found, True
                found.append(entry)
                size += entry.ByteSize()
        if len(rows) < page or (query.tail and len(found) >= query.limit):
            return found, False
        seek = _beyond(seek, rows[-1])
        page = min(page * 2, _MOST_CHUNKS)


def _beyond(query: Query, chunk: Chunk) -> Query:
    if query.tail:
        return replace(query, before=chunk.first_position)
    return replace(query, after=chunk.last_position)


async def follow(store: Chunks, hub: Hub, query: Query) -> AsyncIterator[Followed]:
    """History after the cursor, then what comes, until the caller leaves. Raises Unavailable when the service stops.

    The subscription begins before the history is read, and every line carries its position, so that none is missed or
    repeated where the two meet.
    """
    with hub.subscribed(query) as subscription:
        cursor = query.after
        while True:
            async for page in _history(store, replace(query, after=cursor)):
                cursor = page.through
                if page.entries:
                    yield Followed(0, page.entries)
            while (piece := await subscription.next(cursor)) is not None:
                missing = replace(query, after=cursor)
                entries = [entry for chunk in piece.chunks for entry in codec.wanted(chunk, missing, shared=True)]
                cursor = piece.chunks[-1].last_position
                if entries or piece.gap:
                    yield Followed(piece.gap, entries)


async def _history(store: Chunks, query: Query) -> AsyncIterator[Page]:
    more = True
    while more:
        page = await read(store, replace(query, limit=_FOLLOW_LINES))
        query, more = replace(query, after=page.through), page.more
        yield page
