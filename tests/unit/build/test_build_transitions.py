"""What is done about an attempt: every case a row."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shipoff.build.domain import Attempt, Cause, CleanUp, Fail, Launch, Process, Ref, Rules, State, Stop, Terminate
from shipoff.build.transitions import decide

REF = Ref("d", 1)
BUILDER = Process(7, "boot:1")
RULES = Rules(lease_s=30, overtime_s=10, terminate_s=2.5, kill_s=4, leave_s=2)
RUNNING = Attempt(
    ref=REF, project_id="p", state=State.RUNNING, process=BUILDER, unseen_s=1, remaining_s=60, cancelling_s=None,
    cancel_reason="", ended_s=0,
)  # fmt: skip
NEW = replace(RUNNING, process=None)
CANCELLED = replace(RUNNING, cancel_reason="why", cancelling_s=0)
OVER = replace(RUNNING, state=State.SUCCEEDED, ended_s=1)
STOP = Stop(REF, BUILDER)


def causes(instructions):
    return [i.cause if isinstance(i, Fail) else i for i in instructions]


@pytest.mark.parametrize(
    ("attempt", "alive", "observed_s", "expected"),
    [
        (NEW, False, 99, [Launch(REF)]),
        (replace(NEW, unseen_s=61), False, 99, [Stop(REF, None), Cause.PLATFORM]),
        (replace(NEW, unseen_s=61), False, 5, [Launch(REF)]),
        (RUNNING, True, 99, []),
        (replace(RUNNING, unseen_s=31), True, 99, [STOP, Cause.BUILDER_LOST]),
        # The service itself was away: the builder gets its lease anew.
        (replace(RUNNING, unseen_s=31), True, 5, []),
        (RUNNING, False, 0, [STOP, Cause.BUILDER_LOST]),
        (replace(RUNNING, remaining_s=-1), True, 99, []),
        (replace(RUNNING, remaining_s=-11), True, 99, [STOP, Cause.TIMEOUT]),
        (CANCELLED, True, 99, []),
        (replace(CANCELLED, cancelling_s=3), True, 99, [Terminate(REF, BUILDER)]),
        (replace(CANCELLED, cancelling_s=4), True, 99, [STOP, Cause.CANCELLED]),
        (CANCELLED, False, 99, [STOP, Cause.CANCELLED]),
        (replace(CANCELLED, process=None), False, 99, [Stop(REF, None), Cause.CANCELLED]),
        (OVER, True, 99, []),
        (replace(OVER, ended_s=3), True, 99, [STOP, CleanUp(REF)]),
        (OVER, False, 99, [STOP, CleanUp(REF)]),
        (replace(OVER, state=State.FAILED, process=None), False, 0, [Stop(REF, None), CleanUp(REF)]),
    ],
)
def test_decide(attempt, alive, observed_s, expected):
    assert causes(decide(attempt, alive=alive, observed_s=observed_s, rules=RULES)) == expected


def test_the_cancels_reason_is_the_failures():
    ended = decide(replace(CANCELLED, cancelling_s=9), alive=True, observed_s=9, rules=RULES)
    assert ended[-1] == Fail(REF, Cause.CANCELLED, "why")


def test_nothing_is_failed_before_its_processes_are_stopped():
    for attempt in (RUNNING, CANCELLED, replace(RUNNING, remaining_s=-99)):
        instructions = decide(attempt, alive=False, observed_s=99, rules=RULES)
        assert [type(i) for i in instructions] == [Stop, Fail]
