"""Schedules of a release: pure. When one is due, and what is told of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from shipoff.common import cron

RUNNING, SUCCEEDED = "running", "succeeded"


@dataclass(frozen=True)
class Schedule:
    """A command that the release which is live runs at times of its own; `cron` has five fields, in UTC."""

    name: str
    cron: str
    argv: tuple[str, ...]


@dataclass(frozen=True)
class ScheduleRun:
    """How far a schedule is, in seconds since 1970."""

    # Times up to this one are dealt with.
    seen_at: float = 0.0
    # Of its last run; 0: none.
    started_at: float = 0.0
    # "running", "succeeded", "failed: …"; empty: it has not run.
    outcome: str = ""


def next_run(schedule: Schedule, after: float) -> float:
    """When it runs next, in seconds since 1970."""
    return cron.next_after(schedule.cron, datetime.fromtimestamp(after, UTC)).timestamp()


def is_due(schedule: Schedule, run: ScheduleRun, now: float) -> bool:
    """Whether a time of it has come that is not dealt with: one run stands for all that were missed."""
    return next_run(schedule, run.seen_at) <= now


def outcome(code: int, reason: str) -> str:
    """How a run ended, in words."""
    if reason:
        return f"failed: {reason}"
    return SUCCEEDED if code == 0 else f"failed: exit code {code}"
