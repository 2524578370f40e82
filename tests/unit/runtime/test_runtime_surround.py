"""What surrounds the instances: the switch of requests, what they need, and how long a release that was replaced stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from neighbours.runtime_workloads import NOW, POLICY, workload

from shipoff.runtime import transitions
from shipoff.runtime.domain import (
    Arrange,
    Decision,
    EmitReady,
    Instance,
    InstanceKey,
    InstanceState,
    Observation,
    Observed,
    Phase,
    SwitchRoute,
    Workload,
)

RUN = Instance(
    InstanceKey("d", "web", 0, 1), InstanceState.READY, host="web.shop.svc", port=80, pid=1, due_at=NOW + 60, ready_at=NOW
)


def decided(given: Workload, instances: Sequence[Instance], **observed: bool) -> Decision:
    seen = {one.key: Observation(alive=True, pid=1) for one in instances}
    return transitions.decide(given, instances, Observed(seen, **observed), now=NOW, policy=POLICY)


def test_a_complete_release_is_told_to_be_ready_only_when_requests_reach_it() -> None:
    before = decided(workload(), [RUN], routed=False)
    assert (before.actions, before.emissions) == ((SwitchRoute("d"),), ())
    after = decided(before.workload, before.instances)
    assert after.actions == ()
    assert [type(one) for one in after.emissions] == [EmitReady]


def test_what_is_not_complete_takes_no_requests() -> None:
    assert SwitchRoute("d") not in decided(workload(replicas=2), [RUN], routed=False).actions


def test_a_release_that_was_ready_takes_its_requests_back() -> None:
    unwell = replace(RUN, state=InstanceState.STARTING)
    given = workload(was_ready=True, phase=Phase.READY, endpoints=(RUN.endpoint,))
    assert decided(given, [unwell], routed=False).actions == (SwitchRoute("d"),)


def test_what_surrounds_the_instances_is_put_in_order() -> None:
    given = workload(was_ready=True, phase=Phase.READY, endpoints=(RUN.endpoint,))
    assert decided(given, [RUN], astray=True).actions == (Arrange("d"),)


@pytest.mark.parametrize(("replaced", "due_at"), [(True, NOW + POLICY.drain_s), (False, NOW)])
def test_a_stopped_release_lingers_only_where_another_took_over(replaced: bool, due_at: float) -> None:
    [ending] = decided(workload(was_ready=True, phase=Phase.STOPPING), [RUN], replaced=replaced).instances
    assert (ending.state, ending.due_at) == (InstanceState.STOPPING, due_at)


def test_a_lingering_release_goes_when_a_further_one_took_over() -> None:
    lingering = replace(RUN, state=InstanceState.STOPPING, due_at=NOW + 100)
    given = workload(was_ready=True, phase=Phase.STOPPING)
    assert decided(given, [lingering], replaced=False).instances[0].due_at == NOW
    assert decided(given, [lingering], replaced=True).instances[0].due_at > NOW


def test_instances_behind_one_address_are_told_as_one() -> None:
    other = replace(RUN, key=replace(RUN.key, index=1, incarnation=2))
    [told] = decided(workload(replicas=2), [RUN, other]).emissions
    assert isinstance(told, EmitReady)
    assert told.endpoints == (RUN.endpoint,)
