"""Dead letters: events that a consumer group gave up on, kept on `<stream>.dead` until a person replays or drops them.

Consumers put them there; the worker calls this, on whose interface people list and replay them. A replayed event goes back
to the end of its stream addressed to the group that failed: the others acknowledge it unread. The inbox keeps its mark if
there is one: it was committed together with the handler's writes, so that such an event has been handled.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog
from google.protobuf import json_format
from google.protobuf.message import Message

from shipoff.common.errors import InvalidInput, NotFound
from shipoff.common.streams import GROUPS, PAYLOAD, RECIPIENT, Event, Streams, dead_stream, decode, parse_entry_id, translated
from shipoff.contracts.types.v1 import types_pb2

_PREFIX = "streams."
_BATCH = 500
# Both halves or none, and only once: two who replay the same letter at a time publish it once.
_REPLAY = """
local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])
if #found == 0 then return 0 end
local fields = {}
for i = 1, #found[1][2], 2 do fields[found[1][2][i]] = found[1][2][i + 1] end
redis.call('XADD', KEYS[2], '*', ARGV[2], fields[ARGV[2]], ARGV[3], fields['group'])
return redis.call('XDEL', KEYS[1], ARGV[1])
"""

log = structlog.get_logger()


@dataclass(frozen=True)
class DeadLetter:
    """One event that a group gave up on. `event` is None where the entry is no event at all."""

    id: str
    stream: str
    group: str
    reason: str
    tries: int
    buried_at: datetime
    event: Event | None

    def payload_json(self) -> str:
        """The payload in protobuf's JSON form, without the ciphertext of sealed variables; empty where there is none."""
        if self.event is None:
            return ""
        shown = type(self.event.message)()
        shown.CopyFrom(self.event.message)
        _strip_sealed(shown)
        return json_format.MessageToJson(shown, preserving_proto_field_name=True, indent=None)


def _strip_sealed(message: Message) -> None:
    """Clears whatever could be opened with the master key; names and versions of variables stay."""
    if isinstance(message, types_pb2.SealedVariables):
        message.ClearField("wrapped_data_key")
        message.ClearField("ciphertext")
        return
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None or descriptor.message_type.GetOptions().map_entry:
            continue
        for part in value if descriptor.is_repeated else [value]:
            _strip_sealed(part)


class DeadLetters:
    """Everybody's dead letters. A letter's id is its stream's name and its entry's: "deployment.queue:1700000000000-0"."""

    def __init__(self, streams: Streams) -> None:
        self._client = streams.client

    async def page(self, *, stream: str, group: str, after: str, limit: int) -> Sequence[DeadLetter]:
        """Up to `limit` letters after that id, stream by stream, oldest first. Empty stream or group: all.

        Raises InvalidInput.
        """
        found: list[DeadLetter] = []
        last = _parse(after) if after else None
        for name in _streams(stream):
            if last is not None and name < last[0]:
                continue
            start = f"({last[1]}" if last is not None and name == last[0] else "-"
            async for letter in self._letters(name, start=start):
                if not group or letter.group == group:
                    found.append(letter)
                if len(found) == limit:
                    return found
        return found

    async def get(self, letter_id: str) -> DeadLetter:
        """One letter. Raises NotFound."""
        stream, entry = _known(letter_id)
        found = await self._range(stream, entry, entry)
        if not found:
            raise _no_letter(letter_id)
        return _letter(stream, *found[0])

    async def replay(self, letter_id: str) -> None:
        """Gives one back to the group that failed; it is a dead letter no longer. Raises NotFound."""
        stream, entry = _known(letter_id)
        if not await self._replay(stream, [entry]):
            raise _no_letter(letter_id)

    async def drop(self, letter_id: str) -> None:
        """Removes one for good. Raises NotFound."""
        stream, entry = _known(letter_id)
        if not await self._drop(stream, [entry]):
            raise _no_letter(letter_id)

    async def replay_all(self, *, stream: str, group: str) -> int:
        """Gives back all that are there now; how many. Empty stream or group: all. Raises InvalidInput."""
        return sum([await self._replay(name, ids) for name, ids in await self._ids(stream, group)])

    async def drop_all(self, *, stream: str, group: str) -> int:
        """Removes all that are there now; how many. Empty stream or group: all. Raises InvalidInput."""
        return sum([await self._drop(name, ids) for name, ids in await self._ids(stream, group)])

    async def _range(self, stream: str, start: str, end: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
        with translated():
            found: Any = await self._client.xrange(dead_stream(stream), start, end, count=_BATCH)
        return list(found)

    async def _letters(self, stream: str, *, start: str = "-") -> AsyncIterator[DeadLetter]:
        while True:
            entries = await self._range(stream, start, "+")
            for entry_id, fields in entries:
                yield _letter(stream, entry_id, fields)
            if len(entries) < _BATCH:
                return
            start = f"({entries[-1][0].decode()}"

    async def _ids(self, stream: str, group: str) -> list[tuple[str, list[str]]]:
        """What there is before the first of them is touched: one that dies again is not taken a second time."""
        return [
            (name, [_parse(one.id)[1] async for one in self._letters(name) if not group or one.group == group])
            for name in _streams(stream)
        ]

    async def _replay(self, stream: str, entries: Sequence[str]) -> int:
        count = 0
        for first in range(0, len(entries), _BATCH):
            pipe = self._client.pipeline(transaction=False)
            for entry in entries[first : first + _BATCH]:
                pipe.eval(_REPLAY, 2, dead_stream(stream), stream, entry, PAYLOAD, RECIPIENT)
            with translated():
                count += sum(await pipe.execute())
        log.info("dead letters replayed", stream=stream, count=count)
        return count

    async def _drop(self, stream: str, entries: Sequence[str]) -> int:
        with translated():
            count = int(await self._client.xdel(dead_stream(stream), *entries)) if entries else 0
        log.info("dead letters removed", stream=stream, count=count)
        return count


def _streams(stream: str) -> list[str]:
    if stream and _full(stream) not in GROUPS:
        names = ", ".join(sorted(name.removeprefix(_PREFIX) for name in GROUPS))
        raise InvalidInput(f"there is no stream {stream}", field="stream", remedy=f"one of {names}")
    return [_full(stream)] if stream else sorted(GROUPS)


def _full(stream: str) -> str:
    return stream if stream.startswith(_PREFIX) else f"{_PREFIX}{stream}"


def _parse(letter_id: str) -> tuple[str, str]:
    stream, _, entry = letter_id.partition(":")
    milliseconds, dash, sequence = entry.partition("-")
    if _full(stream) not in GROUPS or not (dash and _is_number(milliseconds) and _is_number(sequence)):
        raise InvalidInput("this is no dead letter's id", field="id", remedy="take it from the list of dead letters")
    return _full(stream), entry


def _is_number(text: str) -> bool:
    """Whether Redis takes it as a half of an entry's id."""
    return text.isascii() and text.isdecimal() and len(text) <= 19


def _known(letter_id: str) -> tuple[str, str]:
    try:
        return _parse(letter_id)
    except InvalidInput as error:
        raise _no_letter(letter_id) from error


def _no_letter(letter_id: str) -> NotFound:
    return NotFound(f"there is no dead letter {letter_id}", field="id", remedy="it may have been replayed or dropped by now")


def _letter(stream: str, entry_id: bytes, fields: dict[bytes, bytes]) -> DeadLetter:
    try:
        event = decode(fields.get(PAYLOAD, b""))
    except InvalidInput:
        event = None
    return DeadLetter(
        id=f"{stream.removeprefix(_PREFIX)}:{entry_id.decode()}",
        stream=stream.removeprefix(_PREFIX),
        group=fields[b"group"].decode(),
        reason=fields[b"reason"].decode(),
        tries=int(fields[b"tries"]),
        buried_at=datetime.fromtimestamp(parse_entry_id(entry_id)[0] / 1000, UTC),
        event=event,
    )
