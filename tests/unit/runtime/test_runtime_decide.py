"""What `decide` makes of each state and observation: the exact instructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from neighbours.runtime_workloads import NOW, POLICY, workload

from shipoff.runtime import transitions
from shipoff.runtime.domain import (
    Decision,
    EmitEndpointsChanged,
    EmitFailed,
    EmitReady,
    EmitStopped,
    Endpoint,
    Instance,
    InstanceKey,
    InstanceState,
    KillInstance,
    Observation,
    Observed,
    Phase,
    Probe,
    Process,
    RemoveResidue,
    StartInstance,
    TerminateInstance,
    Workload,
)

WELL = Probe(well=True)
SILENT = Probe(well=False, words="nothing answered on port 2001")
WAITING, STARTING, READY, STOPPING = InstanceState


def live(**changes: object) -> Workload:
    """One that had become ready on port 2001."""
    defaults = {"phase": Phase.READY, "was_ready": True, "revision": 1, "endpoints": (Endpoint("127.0.0.1", 2001),)}
    return workload(**{**defaults, **changes})


def instance(state: InstanceState, *, index: int = 0, number: int = 1, process: str = "web", **changes: object) -> Instance:
    base = Instance(InstanceKey("d", process, index, number), state=state, port=2000 + number, pid=number, due_at=NOW)
    if state is READY:
        base = replace(base, ready_at=NOW - 5)
    return replace(base, **{"started_at": NOW - 10, **changes})  # type: ignore[arg-type]  # a test's own fields


def alive(one: Instance, **seen: object) -> Observation:
    return Observation(True, pid=one.pid or one.key.incarnation, **seen)  # type: ignore[arg-type]  # a test's own fields


def decided(
    given: Workload, instances: Sequence[Instance], seen: Mapping[InstanceKey, Observation] | None = None, **observed: object
) -> Decision:
    return transitions.decide(given, instances, Observed(seen or {}, **observed), now=NOW, policy=POLICY)  # type: ignore[arg-type]  # a test's own fields


def test_a_new_workload_starts_every_slot_under_its_own_number():
    processes = (Process("web", ("a",)), Process("worker", ("b",)), Process("release", ("c",)))
    decision = decided(workload(replicas=2, processes=processes, last_incarnation=0), [])
    assert [one.key for one in decision.instances] == [
        InstanceKey("d", "web", 0, 1),
        InstanceKey("d", "web", 1, 2),
        InstanceKey("d", "worker", 0, 3),
    ]
    assert decision.actions == tuple(StartInstance(one.key) for one in decision.instances)
    assert decision.workload.last_incarnation == 3


def test_replicas_count_for_workers_where_there_is_no_web():
    assert workload(processes=(Process("worker", ("w",)),), replicas=2).slots() == (("worker", 0), ("worker", 1))


def test_a_recorded_run_that_was_never_started_is_started_again_under_the_same_number():
    pending = instance(STARTING, pid=0)
    assert decided(workload(), [pending]).actions == (StartInstance(pending.key),)
    assert decided(workload(), [replace(pending, due_at=NOW + 1)]).actions == ()


def test_the_first_answer_of_the_last_instance_makes_it_ready():
    first, second = instance(STARTING), instance(STARTING, index=1, number=2)
    two = workload(replicas=2)
    seen = {first.key: alive(first, probe=WELL), second.key: alive(second, probe=SILENT)}
    decision = decided(two, [first, second], seen)
    assert (decision.workload.phase, decision.emissions) == (Phase.STARTING, ())
    seen[second.key] = alive(second, probe=WELL)
    decision = decided(decision.workload, decision.instances, seen)
    both = (Endpoint("127.0.0.1", 2001), Endpoint("127.0.0.1", 2002))
    assert decision.emissions == (EmitReady(1, both),)
    assert (decision.workload.phase, decision.workload.endpoints) == (Phase.READY, both)


def test_a_worker_is_ready_when_it_has_lived_for_a_while():
    only = workload(processes=(Process("worker", ("w",)),))
    young = instance(STARTING, process="worker", port=0, started_at=NOW - 1)
    decision = decided(only, [young], {young.key: alive(young)})
    assert (decision.emissions, decision.instances[0].due_at) == ((), NOW + 1)
    old = replace(young, started_at=NOW - 2)
    assert decided(only, [old], {old.key: alive(old)}).emissions == (EmitReady(1, ()),)


def test_a_starting_instance_is_probed_often_at_first_and_less_later():
    young, old = instance(STARTING, started_at=NOW - 1), instance(STARTING, started_at=NOW - 30)
    pauses = [decided(workload(), [one], {one.key: alive(one, probe=SILENT)}).instances[0].due_at - NOW for one in (young, old)]
    assert pauses == pytest.approx([POLICY.start_probe_s, POLICY.start_slow_probe_s])


@pytest.mark.parametrize(
    ("one", "observed", "reason"),
    [
        (instance(STARTING), {}, "nothing answered on port 2001 within 60 s"),
        (instance(STARTING, last_words="GET /up answered 500"), {}, "GET /up answered 500 within 60 s"),
        (instance(STARTING, pid=0), {}, "it was not started within 60 s"),
        (instance(STARTING), {"trouble": "the object store does not answer"}, "the object store does not answer within 60 s"),
        (instance(WAITING, pid=0, due_at=NOW + 5, last_exit="exit code 1"), {}, "exit code 1 within 60 s"),
    ],
)
def test_the_deadline_fails_it_in_words_and_stops_what_runs(one, observed, reason):
    seen = {one.key: alive(one)} if one.pid else {}
    late = replace(one, due_at=NOW + 5)
    decision = decided(workload(ready_deadline=NOW), [late], seen, **observed)
    assert decision.emissions == (EmitFailed(f"never became ready: {reason}", was_ready=False),)
    assert decision.workload.phase is Phase.FAILED
    assert all(left.state is STOPPING for left in decision.instances)
    assert decision.actions == ()


def test_what_is_given_up_on_is_not_started_once_more():
    decision = decided(workload(ready_deadline=NOW), [instance(WAITING, pid=0, crashes=1)])
    assert decision.workload.phase is Phase.FAILED
    assert decision.actions == ()


def test_the_same_ready_set_is_told_once():
    one = instance(READY)
    assert decided(live(), [one], {one.key: alive(one, probe=WELL)}).emissions == ()


def test_three_exits_before_ready_fail_it_with_the_last_lines():
    one = instance(STARTING, crashes=2)
    seen = {one.key: Observation(False, exit="exit code 1", last_lines=("boom", "at line 3"))}
    decision = decided(workload(), [one], seen)
    reason = "exited 3 times before it was ready: exit code 1 — last lines: boom | at line 3"
    assert decision.emissions == (EmitFailed(reason, was_ready=False),)


def test_what_can_never_start_fails_it_at_once():
    one = instance(STARTING, pid=0)
    decision = decided(workload(), [one], refused={one.key: "the artifact is refused"})
    assert decision.emissions == (EmitFailed("the artifact is refused", was_ready=False),)


def test_what_can_never_start_again_counts_as_a_crash_of_what_was_ready():
    one = instance(STARTING, pid=0)
    decision = decided(live(), [one], refused={one.key: "the artifact is gone"})
    assert (decision.instances[0].state, decision.instances[0].last_exit) == (WAITING, "the artifact is gone")


@pytest.mark.parametrize(("crashes", "backoff_s"), [(0, 1), (1, 2), (2, 4), (5, 32), (6, 60), (40, 60)])
def test_each_exit_in_a_row_waits_longer(crashes, backoff_s):
    one = instance(READY, crashes=crashes)
    (waiting,) = decided(live(), [one], {one.key: Observation(False, exit="exit code 1")}).instances
    assert (waiting.state, waiting.due_at - NOW, waiting.restarts) == (WAITING, backoff_s, 1)
    assert (waiting.port, waiting.pid) == (one.port, 0)


def test_having_been_well_forgives_earlier_exits():
    one = instance(READY, crashes=5, ready_at=NOW - POLICY.well_after_s)
    (waiting,) = decided(live(), [one], {one.key: Observation(False, exit="exit code 1")}).instances
    assert waiting.due_at - NOW == 1
    (kept,) = decided(live(), [one], {one.key: alive(one, probe=WELL)}).instances
    assert kept.crashes == 0


def test_a_run_lost_while_nobody_watched_is_replaced_at_once_and_not_blamed():
    one = instance(READY)
    decision = decided(live(), [one])
    (fresh,) = decision.instances
    assert (fresh.state, fresh.restarts, fresh.crashes, fresh.key.incarnation) == (STARTING, 0, 0, 2)
    assert decision.actions == (StartInstance(fresh.key),)


def test_waiting_ends_with_the_next_incarnation_on_the_same_port():
    waiting = instance(WAITING, pid=0, crashes=1, restarts=1)
    decision = decided(live(), [waiting])
    (fresh,) = decision.instances
    assert (fresh.key.incarnation, fresh.port, fresh.state) == (2, 2001, STARTING)
    assert decision.actions == (StartInstance(fresh.key),)
    assert decided(live(), [replace(waiting, due_at=NOW + 1)]).actions == ()


def test_several_misses_in_a_row_stop_an_instance_as_a_crash():
    one = instance(READY)
    for count in range(1, POLICY.live_misses):
        (one,) = decided(live(), [one], {one.key: alive(one, probe=SILENT)}).instances
        assert (one.state, one.misses) == (READY, count)
        one = replace(one, due_at=NOW)
    (one,) = decided(live(), [one], {one.key: alive(one, probe=SILENT)}).instances
    assert (one.state, one.cause) == (STOPPING, "stopped answering: nothing answered on port 2001")
    (waiting,) = decided(live(), [one], {one.key: Observation(False, exit="exit code 0")}).instances
    assert (waiting.state, waiting.crashes, waiting.last_exit) == (WAITING, 1, one.cause)


def test_one_answer_clears_the_misses():
    one = instance(READY, misses=2)
    assert decided(live(), [one], {one.key: alive(one, probe=WELL)}).instances[0].misses == 0


@pytest.mark.parametrize("state", [STARTING, READY])
def test_an_instance_above_a_limit_is_killed_and_restarted(state):
    one = instance(state)
    decision = decided(live(), [one], {one.key: alive(one, excess="out of memory")})
    assert decision.actions == (KillInstance(one.key),)
    (waiting,) = decided(live(), decision.instances, {one.key: Observation(False, exit="killed by signal 9")}).instances
    assert (waiting.state, waiting.last_exit, waiting.crashes) == (WAITING, "out of memory", 1)


def test_losing_an_instance_tells_the_rest_but_losing_all_tells_nothing():
    first, second = instance(READY), instance(READY, index=1, number=2)
    both = (first.endpoint, second.endpoint)
    given = live(replicas=2, endpoints=both, last_incarnation=2)
    gone = Observation(False, exit="exit code 1")
    decision = decided(given, [first, second], {first.key: gone, second.key: alive(second)})
    assert decision.emissions == (EmitEndpointsChanged(2, (second.endpoint,)),)
    assert (decision.workload.phase, decision.workload.reason) == (Phase.DEGRADED, "exit code 1")
    decision = decided(given, [first, second], {first.key: gone, second.key: gone})
    assert (decision.emissions, decision.workload.endpoints) == ((), both)


def test_a_crash_loop_after_ready_is_told_once_until_it_has_been_well():
    one = instance(READY, crashes=4, exits=(NOW - 20, NOW - 15, NOW - 10, NOW - 5))
    gone = {one.key: Observation(False, exit="exit code 9")}
    decision = decided(live(), [one], gone)
    assert decision.emissions == (EmitFailed("crash loop: exited 5 times in a short while: exit code 9", was_ready=True),)
    assert decision.workload.phase is Phase.DEGRADED
    assert decided(decision.workload, [one], gone).emissions == ()
    well = instance(READY, ready_at=NOW - POLICY.well_after_s, crashes=5)
    calm = decided(decision.workload, [well], {well.key: alive(well, probe=WELL)}).workload
    assert (calm.phase, calm.loop_told, calm.reason) == (Phase.READY, False, "")


def test_the_third_exit_in_a_short_while_is_a_crash_loop():
    for exits, told in (((NOW - 9,), False), ((NOW - 9, NOW - 5), True)):
        one = instance(READY, exits=exits)
        assert bool(decided(live(), [one], {one.key: Observation(False, exit="exit code 9")}).emissions) is told


def test_what_was_ready_and_answers_no_more_is_told_after_a_while():
    silent = instance(STARTING, due_at=NOW + 1, last_words="nothing answered on port 2001")
    seen = {silent.key: alive(silent)}
    begun = decided(live(), [silent], seen)
    assert (begun.emissions, begun.workload.unready_since) == ((), NOW)
    assert transitions.next_due(begun.workload, [replace(silent, due_at=NOW + 999)], POLICY) == NOW + POLICY.broken_after_s
    late = live(unready_since=NOW - POLICY.broken_after_s)
    told = decided(late, [silent], seen)
    words = f"nothing of it has been ready for {POLICY.broken_after_s:g} s: nothing answered on port 2001"
    assert told.emissions == (EmitFailed(words, was_ready=True),)
    assert decided(told.workload, [silent], seen).emissions == ()
    ready = instance(READY)
    assert decided(told.workload, [ready], {ready.key: alive(ready, probe=WELL)}).workload.unready_since == 0


def test_the_time_in_which_the_platform_was_away_is_not_counted_as_broken():
    assert transitions.resumed(live(unready_since=NOW - 999), NOW).unready_since == NOW


def test_one_of_two_that_is_ready_is_enough():
    up, down = instance(READY), instance(STARTING, index=1, number=2)
    seen = {up.key: alive(up, probe=WELL), down.key: alive(down)}
    assert decided(live(replicas=2, last_incarnation=2), [up, down], seen).workload.unready_since == 0


def test_exits_long_ago_make_no_loop():
    one = instance(READY, exits=(1.0, 2.0, 3.0, 4.0))
    assert decided(live(), [one], {one.key: Observation(False, exit="exit code 9")}).emissions == ()


def test_scaling_up_starts_more_and_down_drains_the_last_ones():
    one = instance(READY)
    up = decided(live(replicas=2), [one], {one.key: alive(one)})
    assert up.actions == (StartInstance(InstanceKey("d", "web", 1, 2)),)
    assert up.workload.phase is Phase.READY
    second = instance(READY, index=1, number=2)
    seen = {one.key: alive(one), second.key: alive(second)}
    down = decided(live(endpoints=(one.endpoint, second.endpoint)), [one, second], seen)
    assert down.emissions == (EmitEndpointsChanged(2, (one.endpoint,)),)
    assert (down.instances[1].state, down.instances[1].due_at) == (STOPPING, NOW + POLICY.drain_s)
    assert down.actions == ()


def test_a_slot_wanted_again_while_its_run_leaves_gets_another_port_and_number():
    leaving = instance(STOPPING, due_at=NOW + 1)
    decision = decided(live(), [leaving], {leaving.key: alive(leaving)})
    old, new = decision.instances
    assert (old.state, new.state, new.key.incarnation, new.port) == (STOPPING, STARTING, 2, 0)


def test_leaving_is_asked_for_then_enforced():
    one = instance(STOPPING)
    asked = decided(workload(phase=Phase.STOPPING), [one], {one.key: alive(one)})
    assert asked.actions == (TerminateInstance(one.key),)
    assert asked.instances[0].due_at == NOW + POLICY.grace_s
    patient = decided(asked.workload, asked.instances, {one.key: alive(one)})
    assert patient.actions == ()
    impatient = [replace(asked.instances[0], due_at=NOW)]
    assert decided(asked.workload, impatient, {one.key: alive(one)}).actions == (KillInstance(one.key),)


def test_stopping_drains_then_removes_then_tells():
    one, waiting = instance(READY), instance(WAITING, index=1, number=2, pid=0)
    given = transitions.stopped(live())
    drained = decided(given, [one, waiting], {one.key: alive(one)})
    assert [(left.key, left.state, left.due_at) for left in drained.instances] == [(one.key, STOPPING, NOW + 1)]
    cleaning = decided(drained.workload, drained.instances, {one.key: Observation(False)}, residue=True)
    assert (cleaning.actions, cleaning.emissions) == ((RemoveResidue("d"),), ())
    over = decided(cleaning.workload, cleaning.instances)
    assert (over.emissions, over.workload.phase, over.workload.settled) == ((EmitStopped(),), Phase.STOPPED, True)
    assert decided(over.workload, ()) == Decision(over.workload, ())


def test_a_failed_one_is_cleared_away_quietly_and_tells_when_it_is_stopped():
    failed = workload(phase=Phase.FAILED, reason="no")
    settled = decided(failed, ()).workload
    assert (settled.settled, settled.phase) == (True, Phase.FAILED)
    assert decided(transitions.stopped(settled), ()).emissions == (EmitStopped(),)


def test_a_restart_starts_the_new_run_beside_the_old_one_slot_after_slot():
    first, second = instance(READY), instance(READY, index=1, number=2)
    given = transitions.restarted(live(replicas=2, endpoints=(first.endpoint, second.endpoint), last_incarnation=2), NOW)
    seen = {first.key: alive(first), second.key: alive(second)}
    decision = decided(given, [first, second], seen)
    third = InstanceKey("d", "web", 0, 3)
    assert decision.actions == (StartInstance(third),)
    assert decided(decision.workload, decision.instances, seen).actions == ()
    placed = [replace(one, port=2003, pid=3) if one.key == third else one for one in decision.instances]
    decision = decided(decision.workload, placed, {**seen, third: Observation(True, pid=3, probe=WELL)})
    states = {one.key.incarnation: one.state for one in decision.instances}
    # The new one has answered; the old one leaves with the next look, which also begins with the next slot.
    decision = decided(decision.workload, decision.instances, {**seen, third: Observation(True, pid=3)})
    states = {one.key.incarnation: one.state for one in decision.instances}
    assert states == {1: STOPPING, 2: READY, 3: READY, 4: STARTING}


@pytest.mark.parametrize("phase", list(Phase))
def test_wishes_mean_nothing_to_what_is_over(phase):
    given = workload(phase=phase)
    over = phase in (Phase.STOPPING, Phase.STOPPED)
    assert (transitions.stopped(given) is given) == over
    assert (transitions.restarted(given, NOW) is given) == over
    assert (transitions.scaled(given, 5) is given) == (over or phase is Phase.FAILED)


def test_restarting_a_failed_one_gives_it_another_chance():
    again = transitions.restarted(workload(phase=Phase.FAILED, settled=True, ready_deadline=1), NOW)
    assert (again.phase, again.settled, again.ready_deadline) == (Phase.STARTING, False, NOW + 60)
    assert len(decided(again, ()).actions) == 1


def test_a_platform_that_was_away_gives_the_time_to_become_ready_anew():
    assert transitions.resumed(workload(ready_deadline=1.0), NOW).ready_deadline == NOW + 60
    assert transitions.resumed(live(ready_deadline=1.0), NOW).ready_deadline == 1.0


def test_after_a_clock_was_set_back_nothing_waits_for_hours():
    soon, in_an_hour = instance(WAITING, due_at=NOW + 5), instance(WAITING, index=1, due_at=NOW + 3600)
    assert [one.due_at for one in transitions.due_within((soon, in_an_hour), NOW + 60)] == [NOW + 5, NOW + 60]


def test_suspended_instances_wait_on_their_ports_one_a_slot():
    old, new, other = instance(STOPPING), instance(READY, number=2), instance(READY, index=1, number=3)
    left = transitions.suspended([old, new, other])
    assert [(one.key, one.state, one.port, one.pid) for one in left] == [
        (new.key, WAITING, 2002, 0),
        (other.key, WAITING, 2003, 0),
    ]
    assert all(one.restarts == 0 for one in left)


def test_probes_are_due_for_what_listens_and_runs():
    due, later, worker = instance(READY), instance(READY, number=2, due_at=NOW + 1), instance(STARTING, number=3, process="w")
    unborn, leaving = instance(STARTING, number=4, pid=0), instance(STOPPING, number=5)
    assert transitions.due_probes([due, later, worker, unborn, leaving], NOW) == {due.key}
