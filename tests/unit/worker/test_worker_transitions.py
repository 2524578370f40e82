from datetime import UTC, datetime, timedelta

import pytest

from shipoff.worker.domain import Outcome, Removal
from shipoff.worker.transitions import MAX_TRIES, Verdict, decide, is_leftover, pause_s


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_a_success_ends_it(status: int) -> None:
    assert decide(Outcome(status), 1) == Verdict(None, str(status))


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (Outcome(199), "199"),
        (Outcome(400), "400"),
        (Outcome(404), "404"),
        (Outcome(500), "500"),
        (Outcome(error="timed out"), "timed out"),
    ],
)
def test_everything_else_is_tried_again(outcome: Outcome, text: str) -> None:
    assert decide(outcome, 1) == Verdict(10.0, f"{text}; try 1 of 8")


def test_gone_ends_it() -> None:
    assert decide(Outcome(410), 1) == Verdict(None, "gave up: 410")


@pytest.mark.parametrize("tries", [MAX_TRIES, MAX_TRIES + 1])
def test_the_last_try_gives_up_and_says_so(tries: int) -> None:
    assert decide(Outcome(503), tries) == Verdict(None, f"gave up after {tries} tries: 503")


def test_all_tries_fit_into_a_day() -> None:
    pauses = [pause_s(tries) for tries in range(1, MAX_TRIES)]
    assert pauses == sorted(pauses)
    assert 12 * 3600 < sum(pauses) < 24 * 3600


@pytest.mark.parametrize(
    ("stored_before", "leftover"),
    [
        (timedelta(days=1), True),
        (timedelta(minutes=16), True),
        (timedelta(minutes=15), False),
        (timedelta(), False),
        (-timedelta(hours=1), False),
    ],
)
def test_only_bytes_from_before_the_release_was_given_up_are_leftovers(stored_before: timedelta, leftover: bool) -> None:
    expired_at = datetime(2026, 1, 1, tzinfo=UTC)
    assert is_leftover(Removal("artifacts/a", expired_at, 1), expired_at - stored_before) is leftover
