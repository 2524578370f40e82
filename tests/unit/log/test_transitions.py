"""Which lines of a batch are new."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipoff.log.domain import Hole, Progress
from shipoff.log.transitions import accept

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def hole(first: int, last: int) -> Hole:
    return Hole(first, last, noticed_at=NOW)


@pytest.mark.parametrize(
    ("progress", "sequences", "kept", "after"),
    [
        (Progress(), [1, 2, 3], [0, 1, 2], Progress(3)),
        (Progress(3), [1, 2, 3], [], Progress(3)),
        (Progress(3), [2, 3, 4, 5], [2, 3], Progress(5)),
        (Progress(3), [], [], Progress(3)),
        (Progress(3), [6, 7], [0, 1], Progress(7, (hole(4, 5),))),
        (Progress(), [3], [0], Progress(3, (hole(1, 2),))),
        (Progress(7, (hole(4, 5),)), [4, 5], [0, 1], Progress(7)),
        (Progress(7, (hole(2, 6),)), [4], [0], Progress(7, (hole(2, 3), hole(5, 6)))),
        (Progress(7, (hole(4, 5),)), [3, 4, 6, 8], [1, 3], Progress(8, (hole(5, 5),))),
        (Progress(), [1, 1, 2, 2], [0, 2], Progress(2)),
    ],
)
def test_lines_are_kept_once(progress: Progress, sequences: list[int], kept: list[int], after: Progress) -> None:
    accepted = accept(progress, sequences, now=NOW)
    assert list(accepted.indices) == kept
    assert accepted.progress == after


@given(st.lists(st.lists(st.integers(1, 30), max_size=8), max_size=12))
def test_any_order_and_repetition_keeps_each_number_once_and_knows_what_is_missing(batches: list[list[int]]) -> None:
    progress, stored = Progress(), []
    for batch in batches:
        accepted = accept(progress, batch, now=NOW)
        stored += [batch[i] for i in accepted.indices]
        progress = accepted.progress
    sent = {number for batch in batches for number in batch}
    missing = {number for gap in progress.holes for number in range(gap.first, gap.last + 1)}
    assert sorted(stored) == sorted(sent)
    assert missing == set(range(1, progress.high + 1)) - sent
