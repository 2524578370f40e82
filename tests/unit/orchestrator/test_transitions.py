"""The state machine, row by row."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipoff.orchestrator.domain import (
    MAX_ATTEMPTS,
    TERMINAL,
    ArtifactKnown,
    Broke,
    BuildFailed,
    BuildSucceeded,
    Cancelled,
    DeadlinePassed,
    Deployment,
    Endpoint,
    EndpointsReady,
    Event,
    Instruction,
    PauseWanted,
    ProjectRemoved,
    ProvisionFailed,
    ReleasePublished,
    Replaced,
    Resources,
    RouteSwitched,
    RouteTaken,
    Scaled,
    SlotGranted,
    SlotRefused,
    State,
    Superseded,
)
from shipoff.orchestrator.transitions import LEGAL, TABLE, TARGETS, decide, moves

HERE = (Endpoint("127.0.0.1", 4000),)
QUEUED = Deployment(
    id="d",
    number=3,
    project_id="p",
    team_id="t",
    environment="production",
    state=State.QUEUED,
    accepted_at=datetime(2026, 1, 1, tzinfo=UTC),
)
BUILDING = replace(QUEUED, state=State.BUILDING, attempt=1)
PROVISIONING = replace(BUILDING, state=State.PROVISIONING, artifact=b"a", plan=b"p")
STATIC = replace(PROVISIONING, static=True)
READY = replace(PROVISIONING, revision=1, endpoints=HERE)
PRODUCTION = replace(READY, state=State.PRODUCTION)
BROKEN = replace(PRODUCTION, broke="crash loop")
BACK = replace(READY, automatic=True, reason="puts #1 back, because #2 broke")
GIB = Resources(1000, 1 << 30)
KILLED = BuildFailed(1, "hog", out_of_memory=True, step="install", peak_memory_bytes=520 << 20)
AWAITING = replace(BUILDING, attempt=2, awaits_slot=True, out_of_memory="install was killed at 520 MiB", slot=GIB)
AGAIN = replace(AWAITING, awaits_slot=False)
PAUSED = replace(PRODUCTION, paused=True)
I = Instruction  # noqa: E741 - rows stay on one line

ROWS = [
    (QUEUED, SlotGranted(), State.BUILDING, [I.START_BUILD]),
    (replace(QUEUED, artifact=b"a"), ArtifactKnown(), State.PROVISIONING, [I.PROVISION]),
    (QUEUED, SlotRefused("too large"), State.FAILED, []),
    (BUILDING, KILLED, State.BUILDING, []),
    (AWAITING, SlotGranted(GIB), State.BUILDING, [I.START_BUILD]),
    (AWAITING, SlotRefused("no more"), State.FAILED, []),
    (AWAITING, Cancelled("ada"), State.INACTIVE, [I.CANCEL_BUILD]),
    (AGAIN, BuildFailed(2, "hog", out_of_memory=True), State.FAILED, []),
    (PRODUCTION, Scaled(3), State.PRODUCTION, [I.SCALE_WORKLOAD]),
    (PRODUCTION, PauseWanted(paused=True), State.PRODUCTION, [I.SWITCH_ROUTE, I.PAUSE_WORKLOAD]),
    (PAUSED, PauseWanted(paused=False), State.PRODUCTION, [I.PAUSE_WORKLOAD]),
    (PAUSED, EndpointsReady(2, HERE), State.PRODUCTION, []),
    (QUEUED, Superseded(4), State.INACTIVE, []),
    (QUEUED, Cancelled("ada"), State.INACTIVE, []),
    (QUEUED, DeadlinePassed(60), State.FAILED, []),
    (QUEUED, ProjectRemoved(), State.INACTIVE, [I.REMOVE_ROUTE]),
    (BUILDING, BuildSucceeded(1, b"a", b"p", static=False), State.PROVISIONING, [I.PROVISION]),
    (BUILDING, BuildFailed(1, "npm run build exited with code 1"), State.FAILED, []),
    (BUILDING, BuildFailed(1, "lost", lost=True), State.BUILDING, [I.START_BUILD]),
    (replace(BUILDING, attempt=MAX_ATTEMPTS), BuildFailed(MAX_ATTEMPTS, "lost", lost=True), State.FAILED, []),
    (BUILDING, Superseded(4), State.INACTIVE, [I.CANCEL_BUILD]),
    (BUILDING, Cancelled("ada"), State.INACTIVE, [I.CANCEL_BUILD]),
    (BUILDING, DeadlinePassed(60), State.FAILED, [I.CANCEL_BUILD]),
    (BUILDING, ProjectRemoved(), State.INACTIVE, [I.CANCEL_BUILD, I.REMOVE_ROUTE]),
    (STATIC, ReleasePublished(), State.PROVISIONING, [I.SWITCH_ROUTE]),
    (STATIC, RouteSwitched(0), State.PRODUCTION, []),
    (PROVISIONING, EndpointsReady(1, HERE), State.PROVISIONING, [I.SWITCH_ROUTE]),
    (READY, RouteSwitched(1), State.PRODUCTION, []),
    (READY, RouteTaken(), State.INACTIVE, [I.STOP_WORKLOAD]),
    (READY, ProvisionFailed("crash loop"), State.FAILED, [I.RESTORE_ROUTE, I.STOP_WORKLOAD]),
    (STATIC, ProvisionFailed("refused"), State.FAILED, [I.RESTORE_ROUTE]),
    (READY, Cancelled("ada"), State.INACTIVE, [I.RESTORE_ROUTE, I.STOP_WORKLOAD]),
    (READY, DeadlinePassed(60), State.FAILED, [I.RESTORE_ROUTE, I.STOP_WORKLOAD]),
    (READY, ProjectRemoved(), State.INACTIVE, [I.RESTORE_ROUTE, I.STOP_WORKLOAD, I.REMOVE_ROUTE]),
    (PRODUCTION, EndpointsReady(2, HERE), State.PRODUCTION, [I.SWITCH_ROUTE]),
    (PRODUCTION, EndpointsReady(2, ()), State.PRODUCTION, []),
    (PRODUCTION, Broke("crash loop", baked=False, replaceable=True), State.PRODUCTION, [I.PUT_BACK]),
    (PRODUCTION, Replaced(4), State.INACTIVE, [I.STOP_WORKLOAD]),
    (BROKEN, Replaced(4), State.FAILED, [I.STOP_WORKLOAD]),
    (replace(STATIC, state=State.PRODUCTION, broke="x"), Replaced(4), State.FAILED, []),
    (BACK, RouteSwitched(1), State.PRODUCTION, []),
    (replace(STATIC, state=State.PRODUCTION), Replaced(4), State.INACTIVE, []),
    (PRODUCTION, ProjectRemoved(), State.INACTIVE, [I.STOP_WORKLOAD, I.REMOVE_ROUTE]),
]

STALE = [
    (replace(QUEUED, artifact=b"a"), SlotGranted()),
    (QUEUED, ArtifactKnown()),
    (BUILDING, SlotGranted(GIB)),
    (BUILDING, SlotRefused("no more")),
    (AWAITING, KILLED),
    (replace(STATIC, state=State.PRODUCTION), Scaled(3)),
    (replace(STATIC, state=State.PRODUCTION), PauseWanted(paused=True)),
    (PRODUCTION, PauseWanted(paused=False)),
    (PAUSED, PauseWanted(paused=True)),
    (replace(BUILDING, attempt=2), BuildSucceeded(1, b"a", b"p", static=False)),
    (replace(BUILDING, attempt=2), BuildFailed(1, "old")),
    (PROVISIONING, ReleasePublished()),
    (STATIC, EndpointsReady(1, HERE)),
    (READY, EndpointsReady(1, HERE)),
    (replace(READY, revision=2), RouteSwitched(1)),
    (PRODUCTION, Broke("crash loop", baked=True, replaceable=True)),
    (PRODUCTION, Broke("crash loop", baked=False, replaceable=False)),
    (BROKEN, Broke("again", baked=False, replaceable=True)),
    (replace(BACK, state=State.PRODUCTION), Broke("crash loop", baked=False, replaceable=True)),
]

EVENTS = [
    SlotGranted(),
    SlotRefused("x"),
    Scaled(2),
    PauseWanted(paused=True),
    KILLED,
    BuildFailed(2, "x", out_of_memory=True),
    ArtifactKnown(),
    BuildSucceeded(1, b"a", b"p", static=False),
    BuildFailed(1, "x"),
    BuildFailed(1, "x", lost=True),
    ReleasePublished(),
    EndpointsReady(1, HERE),
    EndpointsReady(2, ()),
    RouteSwitched(0),
    RouteSwitched(1),
    RouteTaken(),
    ProvisionFailed("x"),
    Broke("x", baked=False, replaceable=True),
    Superseded(9),
    Cancelled("ada"),
    Replaced(9),
    ProjectRemoved(),
    DeadlinePassed(1.0),
]


@pytest.mark.parametrize(("before", "event", "state", "instructions"), ROWS)
def test_row(before, event, state, instructions):
    decision = decide(before, event)
    assert decision is not None
    assert decision.deployment.state is state
    assert list(decision.instructions) == instructions
    assert decision.deployment.version == before.version + 1


@pytest.mark.parametrize(("deployment", "event"), STALE)
def test_a_stale_event_changes_nothing(deployment, event):
    assert decide(deployment, event) is None


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_pair_outside_the_table_is_rejected(state, event):
    if (state, type(event)) not in TABLE:
        assert decide(replace(READY, state=state), event) is None


def test_every_event_has_an_example():
    assert {type(event) for event in EVENTS} == set(get_args(Event))


@pytest.mark.parametrize(("before", "event", "state", "instructions"), ROWS)
def test_a_rule_leads_where_the_diagram_says(before, event, state, instructions):
    targets = TARGETS[TABLE[before.state, type(event)]]
    assert state in targets or (state is before.state and before.attempt == decide(before, event).deployment.attempt)


def test_every_move_of_the_diagram_has_an_example():
    shown = {(before.state, type(event), state) for before, event, state, _ in ROWS}
    assert set(moves()) <= shown


def test_what_broke_says_how_until_something_takes_its_place():
    broken = decide(PRODUCTION, Broke("crash loop", baked=False, replaceable=True)).deployment
    assert (broken.broke, broken.reason) == ("crash loop", "it broke while serving: crash loop")
    assert decide(broken, Replaced(4)).deployment.reason == "it broke while serving: crash loop; #4 took its place"


def test_why_something_was_put_back_is_told_while_it_serves():
    known = replace(QUEUED, artifact=b"a", automatic=True, reason="puts #1 back")
    assert decide(known, ArtifactKnown()).deployment.reason == "puts #1 back"
    assert decide(BACK, RouteSwitched(1)).deployment.reason == BACK.reason
    assert decide(replace(BACK, automatic=False), RouteSwitched(1)).deployment.reason == ""


def test_every_row_of_the_table_has_an_example():
    assert {(before.state, type(event)) for before, event, _, _ in ROWS} == set(TABLE)


@given(st.lists(st.sampled_from(EVENTS), max_size=30))
def test_any_sequence_of_events_makes_legal_transitions_only(events):
    deployment = QUEUED
    for event in events:
        decision = decide(deployment, event)
        if decision is None:
            continue
        after = decision.deployment
        assert deployment.state not in TERMINAL
        assert after.state is deployment.state or (deployment.state, after.state) in LEGAL
        assert after.state not in (State.PROVISIONING, State.PRODUCTION) or after.artifact
        deployment = after


def test_out_of_memory_is_tried_once_more_in_a_larger_slot_and_says_so():
    waits = decide(BUILDING, KILLED).deployment
    assert (waits.attempt, waits.awaits_slot) == (2, True)
    again = decide(waits, SlotGranted(GIB)).deployment
    assert (again.attempt, again.awaits_slot, again.slot) == (2, False, GIB)
    assert again.reason == "install was killed at 520 MiB; tried again with 1 GiB"
    # It stays in the record when the second try succeeds.
    built = decide(again, BuildSucceeded(2, b"a", b"p", static=False)).deployment
    assert built.reason == again.reason


def test_out_of_memory_twice_fails_with_both_peaks_and_the_remedy():
    failed = decide(AGAIN, BuildFailed(2, "x", out_of_memory=True, step="install", peak_memory_bytes=1100 << 20)).deployment
    assert failed.reason == (
        "install was killed at 520 MiB; tried again with 1 GiB, where install was killed at 1.07 GiB: "
        "have it use less memory, or give builds a larger budget"
    )


def test_what_waits_for_a_larger_slot_times_out_in_these_words():
    assert decide(AWAITING, DeadlinePassed(60)).deployment.reason == "no larger slot got free within 60 s"


def test_superseded_says_the_commit_where_it_is_known():
    assert decide(QUEUED, Superseded(4, "0123456789abcdef")).deployment.reason == "superseded by #4 (0123456789)"
