"""The release command: once before everything else, never a second time, and what its end means for the workload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from neighbours.runtime_workloads import NOW, POLICY, workload

from shipoff.runtime import transitions
from shipoff.runtime.domain import (
    Decision,
    EmitFailed,
    Instance,
    InstanceKey,
    InstanceState,
    KillInstance,
    Observation,
    Observed,
    Phase,
    Process,
    StartInstance,
    TerminateInstance,
    Workload,
)

KEY = InstanceKey("d", "release", 0, 1)
WEB = InstanceKey("d", "web", 0, 2)


def releasing(**changes: object) -> Workload:
    processes = (Process("release", ("migrate",)), Process("web", ("serve",)))
    return workload(
        **{"processes": processes, "release_timeout_s": 900.0, "ready_deadline": NOW + 900, "last_incarnation": 0, **changes}
    )


def run(**changes: object) -> Instance:
    """One that was seen to run."""
    base = Instance(KEY, state=InstanceState.STARTING, pid=7, process_started="s", started_at=NOW - 5, due_at=NOW + 900)
    return replace(base, **changes)  # type: ignore[arg-type]  # a test's own fields


def decided(
    given: Workload,
    instances: Sequence[Instance],
    seen: Mapping[InstanceKey, Observation] | None = None,
    *,
    now: float = NOW,
    **observed: object,
) -> Decision:
    return transitions.decide(given, instances, Observed(seen or {}, **observed), now=now, policy=POLICY)  # type: ignore[arg-type]  # a test's own fields


def test_it_is_started_alone():
    decision = decided(releasing(), [])
    assert decision.actions == (StartInstance(KEY),)
    assert [one.key for one in decision.instances] == [KEY]


def test_without_a_time_for_it_the_others_start_at_once():
    assert decided(releasing(release_timeout_s=0.0), []).actions == (StartInstance(replace(WEB, incarnation=1)),)


def test_nothing_else_starts_while_it_runs():
    decision = decided(releasing(last_incarnation=1), [run()], {KEY: Observation(True, pid=7, process_started="s")})
    assert decision.actions == ()
    assert decision.workload.phase is Phase.STARTING
    assert [one.state for one in decision.instances] == [InstanceState.STARTING]


def test_when_it_ended_well_the_others_start_and_have_their_own_time_to_become_ready():
    given = releasing(last_incarnation=1)
    decision = decided(given, [run()], {KEY: Observation(False, exit="exit code 0", well=True)})
    assert decision.actions == (StartInstance(WEB),)
    assert decision.workload.released
    assert decision.workload.ready_deadline == NOW + given.ready_timeout_s


def test_when_it_failed_the_workload_fails_with_what_it_said():
    seen = Observation(False, exit="exit code 3", last_lines=("no such column",))
    decision = decided(releasing(), [run()], {KEY: seen})
    reason = "its release command failed: exit code 3 — last lines: no such column"
    assert decision.emissions == (EmitFailed(reason, was_ready=False),)
    assert decision.workload.phase is Phase.FAILED
    assert not any(isinstance(action, StartInstance) for action in decision.actions)


@pytest.mark.parametrize("seen", [None, Observation(False, lost=True)])
def test_when_nobody_knows_how_it_ended_it_is_not_run_again(seen: Observation | None):
    decision = decided(releasing(), [run()], {KEY: seen} if seen else {})
    assert decision.workload.phase is Phase.FAILED
    assert "nobody can tell how far it came" in decision.workload.reason
    assert not any(isinstance(action, StartInstance) for action in decision.actions)


def test_one_that_was_recorded_and_not_begun_is_begun_under_the_same_number():
    decision = decided(releasing(last_incarnation=1), [run(pid=0, process_started="", due_at=NOW)])
    assert decision.actions == (StartInstance(KEY),)


def test_at_the_end_of_its_time_the_workload_fails_and_it_is_ended():
    given = releasing(last_incarnation=1)
    decision = decided(given, [run()], {KEY: Observation(True, pid=7)}, now=NOW + 900)
    assert decision.workload.reason == "its release command did not end within 900 s"
    assert [one.state for one in decision.instances] == [InstanceState.STOPPING]
    later = decided(decision.workload, decision.instances, {KEY: Observation(True, pid=7)}, now=NOW + 901)
    assert later.actions == (TerminateInstance(KEY),)


def test_what_holds_up_its_start_is_told_at_the_end_of_its_time():
    decision = decided(releasing(last_incarnation=1), [run(pid=0)], now=NOW + 900, trouble="the artifact is away")
    assert decision.workload.reason == "its release command could not be run within 900 s: the artifact is away"


def test_one_that_is_above_a_limit_is_killed_and_fails_for_it():
    given = releasing(last_incarnation=1)
    doomed = decided(given, [run()], {KEY: Observation(True, pid=7, excess="out of memory: 1 MiB")})
    assert doomed.actions == (KillInstance(KEY),)
    decision = decided(doomed.workload, doomed.instances, {KEY: Observation(False, lost=True)})
    assert decision.workload.reason == "its release command failed: out of memory: 1 MiB"


def test_a_restart_that_is_asked_for_does_not_run_it_again():
    running = transitions.restarted(releasing(last_incarnation=1), NOW)
    assert decided(running, [run()], {KEY: Observation(True, pid=7)}).actions == ()
    failed = replace(running, phase=Phase.FAILED, reason="its release command failed")
    assert transitions.restarted(failed, NOW) is failed


def test_a_platform_that_stops_leaves_its_run_to_be_looked_after():
    assert transitions.suspended([run()]) == (run(),)


def test_a_workload_that_is_called_off_stops_it():
    gone = transitions.stopped(releasing(last_incarnation=1))
    decision = decided(gone, [run()], {KEY: Observation(True, pid=7)})
    assert [one.state for one in decision.instances] == [InstanceState.STOPPING]
    assert decided(decision.workload, decision.instances, {}).instances == ()
