"""One run's output on its way to the log service: what to send next, and where one was when the platform died.

Before lines are sent, the byte ranges they are made of are written down (the intent) together with the sequence number
they begin at; so whoever comes after a crash sends the very same lines under the same numbers, and the log service, which
knows (stream, sequence), keeps each once.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from shipoff.runtime.adapters.logfiles import CHANNELS, RunLog

MOST_LINE_BYTES = 16 << 10
_CHUNK_BYTES = 256 << 10
_HOLE_BYTES = 1 << 20
# Kept behind the shipped part for who asks for the last lines.
_KEPT_BYTES = 64 << 10
_TRUNCATE_BYTES = 8 << 20
# linux/falloc.h
_KEEP_SIZE, _PUNCH_HOLE = 0x01, 0x02


@dataclass(frozen=True)
class Segment:
    """A range of a channel's bytes. `dropped`: it is not sent, and a line tells how many lines it had."""

    channel: str
    start: int
    end: int
    dropped: int = 0


@dataclass
class Position:
    """How far one has come: the state before `intent` was sent."""

    offsets: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CHANNELS, 0))
    sequence: int = 0
    intent: list[Segment] = field(default_factory=list)


@dataclass(frozen=True)
class Line:
    """A line as it is sent; no channel: the platform's own."""

    channel: str
    text: str


class Tail:
    """Reads a run's files from where it, or an earlier process, has come to."""

    def __init__(self, run: RunLog, *, most_lines: int) -> None:
        self.run = run
        self._most_lines = most_lines
        self._position = _load(run.shipped_file)
        self._planned: list[Line] = []
        self._unsaved = False
        self._punched = dict.fromkeys(CHANNELS, 0)
        self._sizes = dict.fromkeys(CHANNELS, -1)
        self._changed_at = 0.0

    @property
    def sequence(self) -> int:
        """The number of the last line before the intent."""
        return self._position.sequence

    def idle_s(self, now: float) -> float:
        """Seconds since the files last grew."""
        return now - self._changed_at

    def look(self, now: float) -> int:
        """Notices growth; the bytes that wait to be sent."""
        sizes = {name: _size(self.run.channel(name)) for name in CHANNELS}
        if sizes != self._sizes:
            self._sizes, self._changed_at = sizes, now
            for name, size in sizes.items():
                if size < self._position.offsets[name] and not self._position.intent:
                    self._position.offsets[name] = 0
        return sum(size - self._position.offsets[name] for name, size in sizes.items())

    def plan(self, *, flush: bool) -> list[Line]:
        """The next lines to send, their ranges written down; none when nothing is whole. `flush`: half a line is one."""
        if not self._position.intent:
            self._planned = []
            for name in CHANNELS:
                segment = self._next(name, self._most_lines - len(self._planned), flush=flush)
                if segment is not None:
                    self._position.intent.append(segment)
                    self._planned += self._lines(segment)
            if self._position.intent:
                self.save()
        elif not self._planned:
            self._planned = [line for segment in self._position.intent for line in self._lines(segment)]
        return self._planned

    def _next(self, channel: str, room: int, *, flush: bool) -> Segment | None:
        start = self._position.offsets[channel]
        if room <= 0 or self._sizes[channel] <= start:
            return None
        data = self._read(channel, start, start + _CHUNK_BYTES)
        end = _end_of_lines(data, room)
        if end == 0 and len(data) >= MOST_LINE_BYTES:
            end = len(data) - _unfinished(data)
        elif end == 0 and flush:
            end = len(data)
        return Segment(channel, start, start + end) if end else None

    def drop_beyond(self, most_bytes: int) -> None:
        """Plans to leave out the oldest lines of the channel that waits most, until half of `most_bytes` waits."""
        if self._position.intent:
            return
        name = max(CHANNELS, key=lambda one: self._sizes[one] - self._position.offsets[one])
        start, target = self._position.offsets[name], self._sizes[name] - most_bytes // 2
        if target <= start:
            return
        end, count = self._count_lines(name, start, target)
        self._position.intent.append(Segment(name, start, end, max(count, 1)))
        self.save()

    def _count_lines(self, channel: str, start: int, target: int) -> tuple[int, int]:
        """The end of the line that holds `target`, and the lines before it."""
        count = 0
        at = start
        while at < target:
            data = self._read(channel, at, min(at + _CHUNK_BYTES, target))
            count += data.count(b"\n")
            at += len(data) or target - at
        rest = self._read(channel, target, target + MOST_LINE_BYTES)
        newline = rest.find(b"\n")
        return (target + newline + 1, count + 1) if newline >= 0 else (target, count)

    def done(self) -> None:
        """The planned lines have been sent."""
        for segment in self._position.intent:
            self._position.offsets[segment.channel] = segment.end
        self._position.sequence += len(self._planned)
        self._position.intent = []
        self._planned = []
        self._unsaved = True

    def save(self) -> None:
        """Writes the position down. A crash of the machine may lose the last ones; the numbers then come again."""
        path = self.run.channel("position")
        path.write_text(json.dumps(asdict(self._position)))
        path.rename(self.run.shipped_file)
        self._unsaved = False

    def settle(self) -> None:
        """Writes down that everything planned was sent, and gives its space on the disk back."""
        if self._unsaved:
            self.save()
        for name in CHANNELS:
            self._free(name)

    def _free(self, channel: str) -> None:
        offset = self._position.offsets[channel]
        end = max(0, offset - _KEPT_BYTES) // _KEPT_BYTES * _KEPT_BYTES
        if end - self._punched[channel] < _HOLE_BYTES:
            return
        path = self.run.channel(channel)
        if _punch(path, self._punched[channel], end):
            self._punched[channel] = end
        elif offset >= _TRUNCATE_BYTES and offset == _size(path):
            # Without holes the file has to be emptied; a line written in this very moment is lost.
            os.truncate(path, 0)
            self._position.offsets[channel] = 0
            self._punched[channel] = 0
            self.save()

    def _lines(self, segment: Segment) -> list[Line]:
        if segment.dropped:
            return [Line("", f"[{segment.dropped} lines were left out: they came faster than they could be stored]")]
        data = self._read(segment.channel, segment.start, segment.end)
        return [Line(segment.channel, text) for text in texts(data)]

    def _read(self, channel: str, start: int, end: int) -> bytes:
        try:
            with self.run.channel(channel).open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        except OSError:
            return b""


def texts(data: bytes) -> Iterator[str]:
    """The lines in these bytes as text of at most MOST_LINE_BYTES each; what is no UTF-8 is replaced."""
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    for line in lines:
        text = line.removesuffix(b"\r").decode(errors="replace").replace("\0", "\ufffd")
        yield from _parts(text)


def _parts(text: str) -> Iterator[str]:
    # A character takes four bytes at most.
    if len(text) * 4 <= MOST_LINE_BYTES:
        yield text
        return
    encoded = text.encode()
    while len(encoded) > MOST_LINE_BYTES:
        cut = MOST_LINE_BYTES - _unfinished(encoded[:MOST_LINE_BYTES])
        yield encoded[:cut].decode()
        encoded = encoded[cut:]
    yield encoded.decode()


def _unfinished(data: bytes) -> int:
    """How many bytes at the end are the beginning of a character (RFC 3629, section 3)."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:
            length = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if length > back else 0
    return 0


def _end_of_lines(data: bytes, most: int) -> int:
    """The length of at most so many whole lines at the beginning; 0 when there is none."""
    if data.count(b"\n") <= most:
        return data.rfind(b"\n") + 1
    at = 0
    for _ in range(most):
        at = data.index(b"\n", at) + 1
    return at


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _load(path: Path) -> Position:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return Position()
    return Position(values["offsets"], values["sequence"], [Segment(**one) for one in values["intent"]])


def _punch(path: Path, start: int, end: int) -> bool:
    """Frees the blocks of this range; the file keeps its size. False where the system cannot (fallocate(2))."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("r+b") as file:
        offset, length = ctypes.c_int64(start), ctypes.c_int64(end - start)
        return bool(libc.fallocate64(file.fileno(), _KEEP_SIZE | _PUNCH_HOLE, offset, length) == 0)
