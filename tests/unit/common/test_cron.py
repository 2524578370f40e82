"""What a schedule's time may be written as."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from shipoff.common.cron import checked, next_after
from shipoff.common.errors import InvalidInput


@pytest.mark.parametrize(
    ("given", "after"),
    [
        ("*/5 * * * *", datetime(2026, 1, 1, 0, 5, tzinfo=UTC)),
        (" 30  3 * * mon-fri ", datetime(2026, 1, 1, 3, 30, tzinfo=UTC)),
        ("0 0 29 FEB *", datetime(2028, 2, 29, tzinfo=UTC)),
        ("0 12 1,15 * *", datetime(2026, 1, 1, 12, tzinfo=UTC)),
        ("0 0 * * 0", datetime(2026, 1, 4, tzinfo=UTC)),
    ],
)
def test_the_next_time_of_an_expression(given: str, after: datetime) -> None:
    assert next_after(checked(given, field="x"), datetime(2026, 1, 1, tzinfo=UTC)) == after


@pytest.mark.parametrize(
    "given",
    ["", "@daily", "* * * *", "* * * * * *", "61 * * * *", "0 0 31 2 *", "0 0 L * *", "0 0 * * 5#2", "0 0 * * 7", "0 0 * * 1-7",
     "a b c d e", "* * * * * ; rm", "1-0 * * * *", "*/0 * * * *", "0 0 ? * *", "9" * 200],
)  # fmt: skip
def test_what_names_no_time_is_refused_by_its_field(given: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        checked(given, field="schedules.0.cron")
    assert refused.value.field == "schedules.0.cron"
    assert refused.value.remedy
