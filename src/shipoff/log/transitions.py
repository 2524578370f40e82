"""Which lines of a batch are new: decided from their sequence numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from shipoff.log.domain import Hole, Progress


@dataclass(frozen=True)
class Accepted:
    """The indices of the lines to store, and how far the stream has arrived with them."""

    indices: Sequence[int]
    progress: Progress


def accept(progress: Progress, sequences: Sequence[int], *, now: datetime) -> Accepted:
    """Drops what has been stored before, keeps what is new, fills holes, and notices new ones.

    Batches can arrive again (a consumer died before it acknowledged) and out of order (another one took them over), so a
    number below the highest one is a repetition only where no hole waits for it.
    """
    first = progress.high + 1
    if list(sequences) == list(range(first, first + len(sequences))):
        return Accepted(range(len(sequences)), replace(progress, high=progress.high + len(sequences)))
    high, holes, kept = progress.high, list(progress.holes), []
    for index, sequence in enumerate(sequences):
        if sequence > high:
            if sequence > high + 1:
                holes.append(Hole(high + 1, sequence - 1, noticed_at=now))
            high = sequence
            kept.append(index)
        elif _fill(holes, sequence):
            kept.append(index)
    return Accepted(kept, Progress(high, tuple(holes)))


def _fill(holes: list[Hole], sequence: int) -> bool:
    """Takes a number out of the hole that waits for it; False when none does."""
    for at, hole in enumerate(holes):
        if hole.first <= sequence <= hole.last:
            before = replace(hole, last=sequence - 1)
            after = replace(hole, first=sequence + 1)
            holes[at : at + 1] = [part for part in (before, after) if part.count > 0]
            return True
    return False
