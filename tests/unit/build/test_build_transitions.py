"""What is done about an attempt: every case a row."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shipoff.build.domain import (
    ALIVE,
    GONE,
    Attempt,
    Cause,
    CleanUp,
    End,
    Fail,
    Launch,
    Process,
    Ref,
    Rules,
    Sight,
    State,
    Stop,
    Terminate,
)
from shipoff.build.transitions import decide

REF = Ref("d", 1)
BUILDER = Process(7, "boot:1")
RULES = Rules(lease_s=30, begin_s=300, overtime_s=10, terminate_s=2.5, kill_s=4, leave_s=2)
RUNNING = Attempt(
    ref=REF, project_id="p", state=State.RUNNING, process=BUILDER, unseen_s=1, remaining_s=60, cancelling_s=None,
    cancel_reason="", ended_s=0,
)  # fmt: skip
NEW = replace(RUNNING, process=None)
CANCELLED = replace(RUNNING, cancel_reason="why", cancelling_s=0)
OVER = replace(RUNNING, state=State.SUCCEEDED, ended_s=1)
STOP = Stop(REF, BUILDER)
WAITING = Sight(alive=True, waiting=True, obstacle="no node has room")


def causes(instructions):
    return [i.cause if isinstance(i, Fail) else i for i in instructions]


@pytest.mark.parametrize(
    ("attempt", "builder", "observed_s", "expected"),
    [
        (NEW, GONE, 99, [Launch(REF)]),
        (replace(NEW, unseen_s=61), GONE, 99, [Stop(REF, None), Cause.PLATFORM]),
        (replace(NEW, unseen_s=61), GONE, 5, [Launch(REF)]),
        (RUNNING, ALIVE, 99, []),
        (replace(RUNNING, unseen_s=31), ALIVE, 99, [STOP, Cause.BUILDER_LOST]),
        # The service itself was away: the builder gets its lease anew.
        (replace(RUNNING, unseen_s=31), ALIVE, 5, []),
        (RUNNING, GONE, 0, [STOP, Cause.BUILDER_LOST]),
        # How it ended is to be seen from outside.
        (RUNNING, replace(GONE, end=End(Cause.OUT_OF_MEMORY, "")), 0, [STOP, Cause.OUT_OF_MEMORY]),
        (CANCELLED, replace(GONE, end=End(Cause.OUT_OF_MEMORY, "")), 0, [STOP, Cause.CANCELLED]),
        # It has not begun: that has a limit of its own, and begins neither lease nor deadline.
        (replace(RUNNING, unseen_s=299, remaining_s=-99), WAITING, 999, []),
        (replace(RUNNING, unseen_s=301), WAITING, 999, [STOP, Cause.PLATFORM]),
        (replace(RUNNING, unseen_s=301), WAITING, 99, []),
        (replace(CANCELLED, unseen_s=301), WAITING, 999, []),
        # It began a moment ago.
        (replace(RUNNING, unseen_s=299), Sight(alive=True, running_s=29), 999, []),
        (replace(RUNNING, unseen_s=299), Sight(alive=True, running_s=31), 999, [STOP, Cause.BUILDER_LOST]),
        (replace(RUNNING, remaining_s=-1), ALIVE, 99, []),
        (replace(RUNNING, remaining_s=-11), ALIVE, 99, [STOP, Cause.TIMEOUT]),
        (CANCELLED, ALIVE, 99, []),
        (replace(CANCELLED, cancelling_s=3), ALIVE, 99, [Terminate(REF, BUILDER)]),
        (replace(CANCELLED, cancelling_s=4), ALIVE, 99, [STOP, Cause.CANCELLED]),
        (CANCELLED, GONE, 99, [STOP, Cause.CANCELLED]),
        (replace(CANCELLED, process=None), GONE, 99, [Stop(REF, None), Cause.CANCELLED]),
        (OVER, ALIVE, 99, []),
        (replace(OVER, ended_s=3), ALIVE, 99, [STOP, CleanUp(REF)]),
        (OVER, GONE, 99, [STOP, CleanUp(REF)]),
        (replace(OVER, state=State.FAILED, process=None), GONE, 0, [Stop(REF, None), CleanUp(REF)]),
    ],
)
def test_decide(attempt, builder, observed_s, expected):
    assert causes(decide(attempt, builder=builder, observed_s=observed_s, rules=RULES)) == expected


def test_the_cancels_reason_is_the_failures():
    ended = decide(replace(CANCELLED, cancelling_s=9), builder=ALIVE, observed_s=9, rules=RULES)
    assert ended[-1] == Fail(REF, Cause.CANCELLED, "why")


def test_nothing_is_failed_before_its_processes_are_stopped():
    for attempt in (RUNNING, CANCELLED, replace(RUNNING, remaining_s=-99)):
        instructions = decide(attempt, builder=GONE, observed_s=99, rules=RULES)
        assert [type(i) for i in instructions] == [Stop, Fail]


def test_a_builder_that_cannot_begin_says_what_stands_in_the_way():
    ended = decide(replace(RUNNING, unseen_s=301), builder=WAITING, observed_s=999, rules=RULES)
    assert "no node has room" in ended[-1].reason
    ended = decide(replace(RUNNING, unseen_s=301), builder=replace(WAITING, obstacle=""), observed_s=999, rules=RULES)
    assert "does not say why" in ended[-1].reason
