"""Consumer groups that reclaim, retry and dead-letter. Started by every service that reads a stream.

A group reads every entry at least once. An entry that fails for a reason of its own is tried again with backoff and after
MAX_TRIES put on `<stream>.dead`; one that fails because something is away (TemporaryError) is tried for as long as it takes.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import redis.asyncio as aioredis
import structlog
from redis import exceptions as redis_errors

from shipoff.common.errors import InvalidInput, PermanentError, TemporaryError
from shipoff.common.failpoints import crossing
from shipoff.common.lifecycle import background
from shipoff.common.streams import PAYLOAD, RECIPIENT, Event, Streams, dead_stream, decode, translated
from shipoff.common.telemetry import Context, together, working_on

MAX_TRIES = 5
# The newest dead letters of a stream; each is an event that somebody has to look at, so that more is a flood of the same.
DEAD_KEPT = 10_000

# What Redis says of a group that is gone: to who asks, and to who was waiting.
_GROUP_LOST = ("NOGROUP", "UNBLOCKED")

log = structlog.get_logger()

BatchHandler = Callable[[Sequence[Event]], Awaitable[None]]


@dataclass(frozen=True)
class ConsumerOptions:
    """How a consumer behaves; the defaults suit every service."""

    batch: int = 64
    block_ms: int = 5000
    # What another consumer has left unacknowledged for this long is taken over: above the longest handler.
    reclaim_idle_s: float = 30.0
    first_backoff_s: float = 0.5
    longest_backoff_s: float = 30.0
    max_tries: int = MAX_TRIES
    # How often it looks for what dead consumers left, and trims; four times as often while something waits for a retry.
    upkeep_s: float = 4.0


class Consumer:
    """One member of a consumer group. Calls the handler with batches, then acknowledges."""

    def __init__(
        self, streams: Streams, stream: str, group: str, handle: BatchHandler, *, options: ConsumerOptions | None = None
    ) -> None:
        self._streams = streams
        self._stream = stream
        self._group = group
        self._recipient = group.encode()
        self._handle = handle
        self._options = options or ConsumerOptions()
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        # What is done, and acknowledged with the next read: one round trip for both.
        self._done: list[bytes] = []
        self._temporary: dict[bytes, int] = {}
        # Why an entry failed here the last time, for its dead letter.
        self._failures: dict[bytes, str] = {}
        self._waiting = False
        # Acknowledged something since the last trim; what a former process acknowledged is trimmed at the start.
        self._untrimmed = True

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Consumes beside the block."""
        async with background(f"consume {self._stream} as {self._group}", self._consume):
            yield

    async def _consume(self) -> None:
        reader = self._streams.reader()
        try:
            await self._ensure_group()
            next_upkeep = 0.0
            while True:
                if asyncio.get_running_loop().time() >= next_upkeep:
                    await self._upkeep()
                    next_upkeep = asyncio.get_running_loop().time() + self._upkeep_pause_s()
                await self._process(await self._read(reader))
        finally:
            with suppress(TemporaryError):
                await self._acknowledge()
            await reader.aclose()

    def _upkeep_pause_s(self) -> float:
        return self._options.upkeep_s / 4 if self._waiting else self._options.upkeep_s

    async def _ensure_group(self) -> None:
        with translated():
            try:
                await self._streams.client.xgroup_create(self._stream, self._group, id="0", mkstream=True)
            except redis_errors.ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    def _block_ms(self) -> int:
        return min(self._options.block_ms, int(self._upkeep_pause_s() * 1000))

    async def _read(self, reader: aioredis.Redis) -> list[tuple[bytes, bytes]]:
        pipe = reader.pipeline(transaction=False)
        if self._done:
            pipe.xack(self._stream, self._group, *self._done)
        pipe.xreadgroup(self._group, self.name, {self._stream: ">"}, count=self._options.batch, block=self._block_ms())
        try:
            with translated():
                answer = (await pipe.execute())[-1]
        except redis_errors.ResponseError as error:
            if not any(sign in str(error) for sign in _GROUP_LOST):
                raise
            # Redis lost everything: begin again; the outboxes publish again what was under way.
            self._done.clear()
            await self._ensure_group()
            return []
        if self._done:
            crossing("after acknowledgement")
            self._done.clear()
        return await self._own([entry for entries in _per_stream(answer) for entry in entries])

    async def _acknowledge(self) -> None:
        """At once, where no read follows."""
        if self._done:
            with translated():
                await self._streams.client.xack(self._stream, self._group, *self._done)
            crossing("after acknowledgement")
            self._done.clear()

    async def _own(self, entries: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> list[tuple[bytes, bytes]]:
        """The entries with their payloads; acknowledges those that were replayed for another group alone."""
        others = [entry_id for entry_id, fields in entries if fields.get(RECIPIENT, self._recipient) != self._recipient]
        if others:
            with translated():
                await self._streams.client.xack(self._stream, self._group, *others)
            self._untrimmed = True
        return [(entry_id, fields.get(PAYLOAD, b"")) for entry_id, fields in entries if entry_id not in others]

    async def _process(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        if len(entries) == 1:
            await self._deliver_alone(entries[0])
        elif entries:
            try:
                await self._deliver(entries)
            except Exception:
                for entry in entries:
                    await self._deliver_alone(entry)

    async def _deliver(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        events = [decode(data) for _, data in entries]
        # A handler that takes them one by one (`inboxed`) gives each its own ids again.
        with working_on(together(event.context for event in events)):
            await self._handle(events)
        crossing("before acknowledgement")
        self._done += [entry_id for entry_id, _ in entries]
        self._untrimmed = True
        for entry_id, _ in entries:
            self._forget(entry_id)

    async def _deliver_alone(self, entry: tuple[bytes, bytes]) -> None:
        """A failed batch is tried one by one, so that one bad event does not hold up its neighbours."""
        with working_on(_context(entry[1])):
            await self._tried(entry)

    async def _tried(self, entry: tuple[bytes, bytes]) -> None:
        try:
            await self._deliver([entry])
            return
        except TemporaryError as error:
            self._temporary[entry[0]] = self._temporary.get(entry[0], 0) + 1
            log.info("event waits", stream=self._stream, group=self._group, entry=entry[0].decode(), error=str(error))
        except PermanentError as error:
            await self._bury(entry, reason=f"{type(error).__name__}: {error}", tries=1)
        except Exception as error:
            self._failures[entry[0]] = f"{type(error).__name__}: {error}"
            log.exception("event failed", stream=self._stream, group=self._group, entry=entry[0].decode(), error=str(error))
        self._waiting = True

    async def _upkeep(self) -> None:
        """Takes over what dead consumers left, tries again what failed here, trims."""
        await self._acknowledge()
        with translated():
            pending = await self._streams.client.xpending_range(
                self._stream, self._group, min="-", max="+", count=200, idle=int(self._options.first_backoff_s * 1000)
            )
        # Somebody's work that is not acknowledged: this one's to be tried again, or a dead consumer's to be taken over.
        self._waiting = bool(pending)
        for entry in pending:
            if self._is_due(entry):
                await self._retry(entry)
        await self._acknowledge()
        if self._untrimmed:
            self._untrimmed = False
            await self._streams.trim(self._stream)

    def _is_due(self, entry: dict[str, Any]) -> bool:
        idle_s = int(entry["time_since_delivered"]) / 1000
        if entry["consumer"].decode() != self.name:
            return idle_s >= self._options.reclaim_idle_s
        tries = max(int(entry["times_delivered"]), self._temporary.get(entry["message_id"], 1))
        backoff = self._options.first_backoff_s * 2 ** min(tries - 1, 16)
        return idle_s >= min(float(backoff), self._options.longest_backoff_s)

    async def _retry(self, entry: dict[str, Any]) -> None:
        entry_id, tries = entry["message_id"], int(entry["times_delivered"])
        # A wait for something that is away is no try of the event's.
        count = 1 if entry_id in self._temporary else tries + 1
        with translated():
            claimed: list[Any] = await self._streams.client.xclaim(
                self._stream,
                self._group,
                self.name,
                min_idle_time=int(self._options.first_backoff_s * 1000),
                message_ids=[entry_id],
                retrycount=count,
            )
        for claimed_id, fields in claimed:
            if fields is None:
                with translated():
                    await self._streams.client.xack(self._stream, self._group, claimed_id)
                continue
            own = await self._own([(claimed_id, fields)])
            if own and tries >= self._options.max_tries and entry_id not in self._temporary:
                reason = self._failures.get(entry_id, "its consumer died while handling it")
                with working_on(_context(own[0][1])):
                    await self._bury(own[0], reason=reason, tries=tries)
            else:
                await self._process(own)

    async def _bury(self, entry: tuple[bytes, bytes], *, reason: str, tries: int) -> None:
        """Moves an entry to the dead letters, with the reason, in one transaction of Redis'."""
        log.error(
            "event dead-lettered",
            stream=self._stream,
            group=self._group,
            entry=entry[0].decode(),
            reason=reason,
            tries=tries,
        )
        fields: dict[Any, Any] = {
            PAYLOAD: entry[1],
            "group": self._group,
            "entry": entry[0],
            "reason": reason,
            "tries": tries,
        }
        with translated():
            pipe = self._streams.client.pipeline(transaction=True)
            pipe.xadd(dead_stream(self._stream), fields)
            pipe.xack(self._stream, self._group, entry[0])
            pipe.xtrim(dead_stream(self._stream), maxlen=DEAD_KEPT, approximate=False)
            _, _, dropped = await pipe.execute()
        if dropped:
            log.error("dead letters dropped", stream=self._stream, count=dropped, kept=DEAD_KEPT)
        self._forget(entry[0])

    def _forget(self, entry_id: bytes) -> None:
        self._temporary.pop(entry_id, None)
        self._failures.pop(entry_id, None)


def _context(data: bytes) -> Context:
    """The ids of an entry; none when it is no event."""
    try:
        return decode(data).context
    except InvalidInput:
        return Context()


def _per_stream(answer: Any) -> Iterator[list[tuple[bytes, dict[bytes, bytes]]]]:
    """The entries of an XREADGROUP answer, in RESP3's form (a map) as in RESP2's (a list)."""
    if not answer:
        return
    batches = answer.values() if isinstance(answer, dict) else (entries for _, entries in answer)
    for batch in batches:
        for entries in batch if batch and isinstance(batch[0], list) else [batch]:
            yield [(entry_id, fields) for entry_id, fields in entries if fields]
