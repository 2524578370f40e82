"""Lines out of files, each once, whatever the moment of a crash."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipoff.runtime.adapters.logfiles import RunLog
from shipoff.runtime.adapters.tail import MOST_LINE_BYTES, Line, Tail, texts


@pytest.fixture
def run(tmp_path: Path) -> RunLog:
    return RunLog(tmp_path / "d.web.0.1")


def write(run: RunLog, channel: str, data: bytes) -> None:
    with run.channel(channel).open("ab") as file:
        file.write(data)


def ship(run: RunLog, tail: Tail, *, flush: bool = False) -> list[tuple[int, str]]:
    """Everything that can be sent: (sequence, text)."""
    sent: list[tuple[int, str]] = []
    while True:
        tail.look(0.0)
        lines = tail.plan(flush=flush)
        if not lines:
            return sent
        sent += [(number, line.text) for number, line in enumerate(lines, start=tail.sequence + 1)]
        tail.done()


def test_lines_of_both_channels_are_numbered_in_one_row(run):
    write(run, "stdout", b"one\ntwo\n")
    write(run, "stderr", b"bad\n")
    assert ship(run, Tail(run, most_lines=10)) == [(1, "one"), (2, "two"), (3, "bad")]


def test_half_a_line_waits_for_its_end_or_for_patience_to_run_out(run):
    tail = Tail(run, most_lines=10)
    write(run, "stdout", b"whole\nha")
    assert ship(run, tail) == [(1, "whole")]
    write(run, "stdout", b"lf\nprompt> ")
    assert ship(run, tail) == [(2, "half")]
    assert ship(run, tail, flush=True) == [(3, "prompt> ")]


def test_after_a_crash_the_same_lines_come_again_under_the_same_numbers(run):
    write(run, "stdout", b"a\nb\n")
    write(run, "stderr", b"x\n")
    tail = Tail(run, most_lines=2)
    tail.look(0.0)
    planned = tail.plan(flush=False)
    # Dies here: perhaps they were sent, perhaps not. More is written before the next one comes.
    write(run, "stdout", b"c\n")
    again = Tail(run, most_lines=100)
    again.look(0.0)
    assert (again.plan(flush=False), again.sequence) == (planned, tail.sequence)
    again.done()
    assert ship(run, again) == [(3, "c"), (4, "x")]


def test_a_position_that_was_kept_is_gone_on_from(run):
    write(run, "stdout", b"a\nb\n")
    tail = Tail(run, most_lines=10)
    ship(run, tail)
    tail.settle()
    write(run, "stdout", b"c\n")
    assert ship(run, Tail(run, most_lines=10)) == [(3, "c")]


def test_long_lines_come_in_parts_without_breaking_a_character():
    text = "é" * MOST_LINE_BYTES
    parts = list(texts(text.encode() + b"\nshort\n"))
    assert "".join(parts[:-1]) == text
    assert parts[-1] == "short"
    assert all(len(part.encode()) <= MOST_LINE_BYTES for part in parts)


def test_a_line_without_end_does_not_wait_for_ever(run):
    write(run, "stdout", b"z" * 1_000_000)
    sent = ship(run, Tail(run, most_lines=500))
    assert sum(len(text) for _, text in sent) > 900_000


def test_bytes_that_are_no_text_are_replaced():
    assert list(texts(b"a\xff\0b\r\n\n")) == ["a\ufffd\ufffdb", ""]


def test_the_oldest_lines_give_way_and_are_counted(run):
    write(run, "stdout", b"".join(b"line %d\n" % number for number in range(1000)))
    tail = Tail(run, most_lines=5000)
    assert tail.look(0.0) > 4000
    tail.drop_beyond(4000)
    (notice,) = tail.plan(flush=False)
    tail.done()
    kept = ship(run, tail)
    first = int(kept[0][1].split()[1])
    assert notice == Line("", f"[{first} lines were left out: they came faster than they could be stored]")
    assert kept[-1] == (len(kept) + 1, "line 999")


def test_space_of_what_was_shipped_is_given_back(run):
    tail = Tail(run, most_lines=5000)
    write(run, "stdout", b"".join(b"%063d\n" % number for number in range(65536)))
    before = run.channel("stdout").stat().st_blocks
    ship(run, tail)
    tail.settle()
    assert run.channel("stdout").stat().st_blocks < before / 10
    write(run, "stdout", b"next\n")
    assert [text for _, text in ship(run, tail)] == ["next"]


def test_a_file_that_was_emptied_is_read_from_its_beginning(run):
    tail = Tail(run, most_lines=10)
    write(run, "stdout", b"before\n")
    ship(run, tail)
    run.channel("stdout").write_bytes(b"new\n")
    assert [text for _, text in ship(run, tail)] == ["new"]


_pieces = st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=40)), max_size=12)


@given(pieces=_pieces, crashes=st.lists(st.booleans(), max_size=30))
@settings(max_examples=100, deadline=None)
def test_every_byte_arrives_once_under_its_number_through_any_crashes(tmp_path_factory, pieces, crashes):
    run = RunLog(tmp_path_factory.mktemp("log") / "d.web.0.1")
    stored: dict[int, str] = {}
    tail = Tail(run, most_lines=3)
    for (channel, data), crash in zip(pieces, crashes + [False] * len(pieces), strict=False):
        write(run, channel, data)
        tail.look(0.0)
        for number, line in enumerate(tail.plan(flush=False), start=tail.sequence + 1):
            assert stored.setdefault(number, line.text) == line.text
        if crash:
            tail = Tail(run, most_lines=3)
        else:
            tail.done()
    for number, text in ship(run, tail, flush=True):
        assert stored.setdefault(number, text) == text
    assert sorted(stored) == list(range(1, len(stored) + 1))
    written = {name: b"".join(data for channel, data in pieces if channel == name) for name in ("stdout", "stderr")}
    assert sorted(stored.values()) == sorted(text for data in written.values() for text in texts(data))
