"""What follows from how a try went."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from shipoff.worker.domain import Outcome, Removal

MAX_TRIES = 8
_FIRST_PAUSE_S = 10.0
_GROWTH = 4.0
_GONE = 410
# The longest way of a stored artifact until the orchestrator knows of it.
_UNDER_WAY = timedelta(minutes=15)


@dataclass(frozen=True)
class Verdict:
    """What becomes of a delivery; `retry_in_s` is None when it is over."""

    retry_in_s: float | None
    result: str


def pause_s(tries: int) -> float:
    """The pause after so many tries: 10 s, 40 s, …; all of them together stay below a day."""
    return _FIRST_PAUSE_S * _GROWTH ** (max(tries, 1) - 1)


def decide(outcome: Outcome, tries: int) -> Verdict:
    """2xx is delivered; 410 (the receiver is gone for good) and the last try end it; everything else is tried again."""
    if outcome.status is not None and 200 <= outcome.status < 300:
        return Verdict(None, outcome.text)
    if outcome.status == _GONE:
        return Verdict(None, f"gave up: {outcome.text}")
    if tries >= MAX_TRIES:
        return Verdict(None, f"gave up after {tries} tries: {outcome.text}")
    return Verdict(pause_s(tries), f"{outcome.text}; try {tries} of {MAX_TRIES}")


def is_leftover(removal: Removal, changed_at: datetime) -> bool:
    """Whether the object that is there now is the one whose release was given up.

    Artifacts are named by their digest: a later build of the same content stores the same name again. What was stored after
    the release was given up, or so shortly before that its build may not have been counted yet, is kept.
    """
    return changed_at < removal.expired_at - _UNDER_WAY
