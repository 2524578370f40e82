"""The lines of a container's log as the API server gives them, each behind its time: pure but for the reading."""

from __future__ import annotations

import calendar
import re
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from shipoff.runtime.adapters.tail import texts

# https://datatracker.ietf.org/doc/html/rfc3339, with up to nine digits of a second; nodes may write local time.
_TIME = re.compile(rb"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d):(\d\d)) ?")
_MOST_BYTES = 1 << 20
_CUT = "[the rest of this line was left out: it is longer than 1 MiB]"


@dataclass(frozen=True)
class TimedLine:
    """A line, as the pieces it is sent in."""

    at_ns: int
    texts: tuple[str, ...]


def timed(line: bytes, *, cut: bool = False) -> TimedLine | None:
    """A line of the log without its end; None for one without a time, which no container wrote."""
    found = _TIME.match(line)
    if found is None:
        return None
    *date, fraction, sign, hours, minutes = found.groups()
    seconds = calendar.timegm(tuple(int(one) for one in date))
    if sign:
        away = int(hours) * 3600 + int(minutes) * 60
        seconds += away if sign == b"-" else -away
    pieces = tuple(texts(line[found.end() :] + b"\n"))
    at_ns = seconds * 1_000_000_000 + int((fraction or b"0").ljust(9, b"0"))
    return TimedLine(at_ns, (*pieces, _CUT) if cut else pieces)


async def timed_lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[list[TimedLine]]:
    """The whole lines of each chunk; a line that does not end is held up to 1 MiB, and its rest left out."""
    rest, cut = b"", False
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        lines = []
        for index, line in enumerate(whole):
            found = timed(line, cut=cut and index == 0)
            if found is not None:
                lines.append(found)
        cut = (cut and not whole) or len(rest) > _MOST_BYTES
        rest = rest[:_MOST_BYTES]
        if lines:
            yield lines
    last = timed(rest, cut=cut) if rest else None
    if last is not None:
        yield [last]
