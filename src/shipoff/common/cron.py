"""Cron expressions: five fields, in UTC, of the kind that one machine and Kubernetes read alike.

crontab(5); https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/#schedule-syntax. What only one of the two knows
(L, #, a second's field, 7 for Sunday, @daily) is refused, so that a schedule means the same on both.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from cronsim import CronSim, CronSimError

from shipoff.common.errors import InvalidInput

_FIELDS = ("minute", "hour", "day of the month", "month", "day of the week")
_FORM = re.compile(r"[0-9A-Za-z*/,-]+")
_WORDS = re.compile(r"[A-Za-z]+")
_DAYS = frozenset(["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"])
_MONTHS = frozenset(["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"])
_SUNDAY = re.compile(r"(?<![0-9/])7(?![0-9])")
_LONGEST = 100
_REMEDY = "five fields: minute hour day month weekday, as 30 3 * * 1-5"


def checked(expression: str, *, field: str) -> str:
    """The expression with single spaces. Raises InvalidInput naming the field, and which of the five is wrong."""
    parts = expression.split()
    if len(parts) != len(_FIELDS) or len(expression) > _LONGEST:
        raise InvalidInput(f"{expression[:_LONGEST]!r} is no cron expression", field=field, remedy=_REMEDY)
    for name, part in zip(_FIELDS, parts, strict=True):
        words = {word.upper() for word in _WORDS.findall(part)}
        if not _FORM.fullmatch(part) or not words <= _DAYS | _MONTHS:
            raise InvalidInput(f"the {name} of a schedule cannot be {part!r}", field=field, remedy=_REMEDY)
    if _SUNDAY.search(parts[4]):
        raise InvalidInput("the day of the week is from 0, Sunday, to 6", field=field, remedy="write 0 for Sunday")
    text = " ".join(parts).upper()
    try:
        # One that never comes, as the 31st of February, is found out by looking for it.
        next(CronSim(text, datetime(2000, 1, 1, tzinfo=UTC)))
    except (CronSimError, StopIteration) as error:
        raise InvalidInput(f"{text!r} names no time: {error or 'it never comes'}", field=field, remedy=_REMEDY) from error
    return text


def next_after(expression: str, when: datetime) -> datetime:
    """The first time of a checked expression after `when`."""
    return next(CronSim(expression, when.astimezone(UTC)))
