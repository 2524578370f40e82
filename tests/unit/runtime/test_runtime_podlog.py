"""Lines of pods: read whatever the pieces they come in, and done once whenever the reading breaks off."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipoff.runtime.adapters.kubernetes.lines import TimedLine, timed, timed_lines
from shipoff.runtime.adapters.kubernetes.position import Position, Resumption

_NS = 1_000_000_000
_START = 1_764_000_000 * _NS


def read(log: Sequence[int], position: Position, *, stop_after: int) -> tuple[list[int], Position, bool]:
    """Reads a log of times from a position until so many lines came; those that were new, and whether a loss was told."""
    resumption, new, lost = Resumption(position), [], False
    answer = [at for at in log if at >= position.since * _NS]
    for at in answer[:stop_after]:
        if resumption.is_new(at):
            lost = resumption.lost_some(at) or lost
            new.append(at)
            position = position.after(at)
    return new, position, lost


# Two streams of a container are stamped before they are written: times go back by a little now and then.
_STEPS = st.lists(st.sampled_from([1, 7, _NS // 3, _NS, 5 * _NS, -20]), max_size=40)


@settings(max_examples=200, deadline=None)
@given(_STEPS, st.lists(st.integers(0, 40), max_size=4))
def test_whenever_reading_breaks_off_each_line_is_done_once(steps: list[int], breaks: list[int]) -> None:
    log = [_START]
    for step in steps:
        log.append(max(log) + step if step > 0 else log[-1] + step)
    position, done = Position(), []
    for stop in [*breaks, len(log)]:
        new, position, lost = read(log, position, stop_after=stop)
        done += new
        assert not lost
    assert done == log
    assert position.sequence == len(log)


def test_lines_that_are_gone_when_it_is_asked_again_are_told_of() -> None:
    log = [_START + n * _NS // 10 for n in range(30)]
    _, position, _ = read(log[:10], Position(), stop_after=30)
    # What was done is gone with more; then only what was done.
    assert read(log[15:], position, stop_after=30)[::2] == (log[15:], True)
    assert read(log[5:], position, stop_after=30)[::2] == (log[10:], False)


def test_lines_that_came_before_the_news_of_their_run_are_not_done_again() -> None:
    log = [_START + n for n in range(5)]
    _, position, _ = read(log, Position(), stop_after=3)
    new, _, lost = read(log, position.at_run(1, began_ns=_START), stop_after=5)
    assert (new, lost) == (log[3:], False)
    assert read(log, position.at_run(1, began_ns=_START + 10), stop_after=5)[0] == log


def test_each_deployment_s_lines_are_numbered_from_one() -> None:
    position = Position().numbered_under("a").after(_START)
    assert position.numbered_under("a").sequence == 1
    assert position.numbered_under("b").sequence == 0


@pytest.mark.parametrize(
    ("line", "at_ns", "text"),
    [
        (b"2025-11-25T12:00:00Z hello", 0, "hello"),
        (b"2025-11-25T12:00:00.000000001Z hello", 1, "hello"),
        (b"2025-11-25T13:00:00.5+01:00  two", _NS // 2, " two"),
        (b"2025-11-25T07:00:00-05:00", 0, ""),
        (b"2025-11-25T12:00:00Z \xff", 0, "\ufffd"),
    ],
)
def test_a_line_comes_behind_its_time(line: bytes, at_ns: int, text: str) -> None:
    assert timed(line) == TimedLine(1_764_072_000 * _NS + at_ns, (text,))


def test_what_has_no_time_is_no_line() -> None:
    assert timed(b"rpc error: no such container") is None


@settings(max_examples=60, deadline=None)
@given(st.data())
async def test_lines_are_the_same_whatever_pieces_they_come_in(data: st.DataObject) -> None:
    texts = data.draw(st.lists(st.text(alphabet="ab é", max_size=10), max_size=8))
    whole = b"".join(b"2025-11-25T12:00:00Z " + text.encode() + b"\n" for text in texts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert [text for line in await _read(pieces) for text in line.texts] == texts


async def test_a_line_that_does_not_end_is_cut() -> None:
    pieces = [b"2025-11-25T12:00:00Z ", *(b"x" * 65536 for _ in range(40)), b"\n2025-11-25T12:00:00Z next\n"]
    long, following = await _read(pieces)
    assert sum(map(len, long.texts[:-1])) <= 1 << 20
    assert "left out" in long.texts[-1]
    assert following.texts == ("next",)


async def _read(pieces: Sequence[bytes]) -> list[TimedLine]:
    async def coming() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return [line async for lines in timed_lines(coming()) for line in lines]
