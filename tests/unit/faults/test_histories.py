"""The checker of recorded histories finds each kind of violation, and nothing in a sound history."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from neighbours.histories import (
    Builds,
    Deployments,
    Route,
    Workloads,
    builds_violations,
    deployments_violations,
    workloads_violations,
)

from shipoff.contracts.events.v1 import events_pb2

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PLACE = ("p", "production")
BUDGET = {
    **{"cpu_millis": 2000, "cpu_millis_reserved": 0, "cpu_millis_lasting": 0},
    **{"memory_bytes": 4096, "memory_bytes_reserved": 0, "memory_bytes_lasting": 0},
}
HELD = {
    f"{name}_{kind}": held
    for name, held in {"cpu_millis": 1000, "memory_bytes": 1024}.items()
    for kind in ("reserved", "lasting")
}
RESERVATION = {"deployment_id": "d2", "cpu_millis": 1000, "memory_bytes": 1024, "lasting": True}
LIFE = ("queued", "building", "provisioning", "production", "inactive")


def deployment(who: str, number: int, state: str) -> dict[str, Any]:
    return {"id": who, "project_id": PLACE[0], "environment": PLACE[1], "number": number, "state": state}


def life(who: str, until: str, *, begins: int = 0) -> list[dict[str, Any]]:
    """The transitions of an undisturbed life, a second apart."""
    states = LIFE[: LIFE.index(until) + 1]
    return [
        {"deployment_id": who, "version": n + 2, "from_state": a, "to_state": b, "time": NOON + timedelta(seconds=begins + n)}
        for n, (a, b) in enumerate(pairwise(states))
    ]


# d1 served and was replaced by d2, in the same moment.
SOUND = Deployments(
    deployments=[deployment("d1", 1, "inactive"), deployment("d2", 2, "production")],
    transitions=[*life("d1", "inactive"), *life("d2", "production", begins=1)],
    budget=[BUDGET],
)
ROUTES = [Route(PLACE, "d1", 10), Route(PLACE, "d2", 20)]


def step(who: str, version: int, before: str, after: str, *, at: int = 9) -> dict[str, Any]:
    time = NOON + timedelta(seconds=at)
    return {"deployment_id": who, "version": version, "from_state": before, "to_state": after, "time": time}


def without(state: str) -> list[dict[str, Any]]:
    return [one for one in SOUND.transitions if one["to_state"] != state]


def test_nothing_is_found_in_a_sound_history():
    assert deployments_violations(SOUND, at_rest=True, routes=ROUTES) == []


BROKEN: dict[str, tuple[Deployments, str]] = {
    "a transition that the table does not know": (
        replace(SOUND, transitions=[*SOUND.transitions, step("d1", 9, "inactive", "building")]),
        "H: d1 went inactive → building",
    ),
    "a step that is missing": (replace(SOUND, transitions=without("provisioning")), "H: d1 left provisioning without"),
    "two steps of a version": (
        replace(SOUND, transitions=[*SOUND.transitions, step("d2", 4, "production", "inactive")]),
        "H: d2 has two transitions of version 4",
    ),
    "a step before the one that led to it": (
        replace(SOUND, transitions=[*SOUND.transitions, step("d2", 9, "production", "inactive", at=-5)]),
        "H: d2 went production → inactive before it got there",
    ),
    "a state without its transition": (
        replace(SOUND, deployments=[deployment("d1", 1, "failed"), SOUND.deployments[1]]),
        "H: d1 is failed",
    ),
    "transitions of nothing": (replace(SOUND, deployments=SOUND.deployments[1:]), "H: d1 has transitions and is no deployment"),
    "two that serve": (
        replace(SOUND, transitions=[*life("d1", "production"), *life("d2", "production", begins=1)]),
        "B: d2 served production while d1 did",
    ),
    "an older one after a newer": (
        replace(SOUND, deployments=[deployment("d1", 2, "inactive"), deployment("d2", 1, "production")]),
        "N: #1 served after #2",
    ),
    "a reservation of what has ended": (
        replace(SOUND, reservations=[RESERVATION | {"deployment_id": "d1"}], budget=[BUDGET | HELD]),
        "G: d1 has ended and holds a reservation",
    ),
    "a reservation of nobody": (
        replace(SOUND, reservations=[RESERVATION | {"deployment_id": "d9"}], budget=[BUDGET | HELD]),
        "G: d9 has ended and holds a reservation",
    ),
    "a budget that says less than the reservations": (
        replace(SOUND, reservations=[RESERVATION]),
        "G: 0 cpu_millis are reserved, and the reservations are 1000",
    ),
    "a slot that leaked": (
        replace(SOUND, budget=[BUDGET | HELD]),
        "G: 1024 memory_bytes are reserved, and the reservations are 0",
    ),
    "a build's reservation of what serves": (
        replace(SOUND, reservations=[RESERVATION | {"lasting": False}], budget=[BUDGET | HELD]),
        "G: d2 is production and holds a build's reservation",
    ),
    "more of apps than they hold": (
        replace(SOUND, reservations=[RESERVATION], budget=[BUDGET | HELD | {"cpu_millis_lasting": 7}]),
        "G: 7 cpu_millis are said to be apps', and theirs are 1000",
    ),
    "more than there is": (
        replace(SOUND, reservations=[RESERVATION], budget=[BUDGET | HELD | {"cpu_millis": 500}]),
        "G: 1000 cpu_millis are reserved out of 500",
    ),
    "a deployment that is stuck": (
        replace(
            SOUND,
            deployments=[*SOUND.deployments, deployment("d3", 3, "building")],
            transitions=[*SOUND.transitions, *life("d3", "building")],
        ),
        "A: d3 is building for good",
    ),
    "an accepted one that was forgotten": (
        replace(SOUND, deployments=[*SOUND.deployments, deployment("d3", 3, "queued")]),
        "A: d3 is queued for good",
    ),
    "an instruction that nobody did": (
        replace(SOUND, instructions=[{"instruction": "stop_workload", "deployment_id": "d1"}]),
        "A: stop_workload of d1 was never done",
    ),
    "an event that nobody acknowledged": (replace(SOUND, outbox=[{"epoch": "x"}]), "A: 1 events"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_violation_of_a_deployment_is_found(name: str):
    recorded, expected = BROKEN[name]
    found = deployments_violations(recorded, at_rest=True, routes=ROUTES)
    assert any(violation.startswith(expected) for violation in found), found


@pytest.mark.parametrize(
    "name", ["a deployment that is stuck", "an instruction that nobody did", "an event that nobody acknowledged"]
)
def test_what_is_under_way_is_no_violation_before_the_rest(name: str):
    assert deployments_violations(BROKEN[name][0], at_rest=False) == []


def test_an_older_one_may_serve_again_after_the_newer_one_failed():
    recorded = replace(
        SOUND,
        deployments=[deployment("d1", 2, "failed"), deployment("d2", 1, "production")],
        transitions=[
            *life("d1", "production"),
            step("d1", 9, "production", "failed", at=2),
            *life("d2", "production", begins=5),
        ],
    )
    assert [one for one in deployments_violations(recorded, at_rest=False) if one.startswith("N")] == []


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ([], "F: production is led to nothing, and d2 serves"),
        (ROUTES[:1], "F: production is led to d1, and d2 serves"),
        ([Route(PLACE, "d1", 30), Route(PLACE, "d2", 20)], "F: d2 was routed with fence 20 after 30"),
    ],
)
def test_a_route_that_leads_elsewhere_is_found(routes: list[Route], expected: str):
    assert expected in deployments_violations(SOUND, at_rest=True, routes=routes)


def build(attempt: int, state: str, **changes: Any) -> dict[str, Any]:
    return {"deployment_id": "d", "attempt": attempt, "state": state, "artifact": b"a", "cleaned_at": NOON, **changes}


LOST = events_pb2.BuildFailed(deployment_id="d", attempt=1)
BUILT = events_pb2.BuildSucceeded(deployment_id="d", attempt=2)
BUILDS = Builds(builds=[build(1, "failed", artifact=None), build(2, "succeeded")], outcomes=[LOST, BUILT])


def test_nothing_is_found_in_sound_builds():
    assert builds_violations(BUILDS, at_rest=True) == []


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        (replace(BUILDS, outcomes=[LOST, BUILT, BUILT]), "E: the end of attempt 2 of d was told 2 times"),
        (replace(BUILDS, builds=[build(1, "running"), BUILDS.builds[1]]), "E: attempt 1 of d runs and its end was told"),
        (replace(BUILDS, builds=[build(1, "running"), build(2, "running")]), "E: 2 attempts of d run"),
        (replace(BUILDS, builds=[build(1, "succeeded"), BUILDS.builds[1]]), "E: attempt 1 of d succeeded, and the opposite"),
        (
            replace(BUILDS, builds=[BUILDS.builds[0], build(2, "succeeded", artifact=None)]),
            "E: attempt 2 of d succeeded without",
        ),
        (replace(BUILDS, builds=BUILDS.builds[:1]), "E: the end of attempt 2 of d was told, which there is not"),
        (replace(BUILDS, builds=[build(3, "running"), *BUILDS.builds]), "A: attempt 3 of d runs for good"),
        (replace(BUILDS, outcomes=[LOST]), "A: the end of attempt 2 of d was never told"),
        (
            replace(BUILDS, builds=[BUILDS.builds[0], build(2, "succeeded", cleaned_at=None)]),
            "A: attempt 2 of d was not cleaned up",
        ),
        (replace(BUILDS, outbox=[{"epoch": None}]), "A: events of the build service's were never published"),
    ],
)
def test_each_violation_of_a_build_is_found(recorded: Builds, expected: str):
    found = builds_violations(recorded, at_rest=True)
    assert any(violation.startswith(expected) for violation in found), found


def instance(index: int, **changes: Any) -> dict[str, Any]:
    return {"deployment_id": "w", "process": "web", "index": index, "state": "ready", "port": 4000 + index, **changes}


READY = events_pb2.WorkloadReady(deployment_id="w", revision=1)
CHANGED = events_pb2.WorkloadEndpointsChanged(deployment_id="w", revision=2)
STOPPED = events_pb2.WorkloadStopped(deployment_id="w")
WORKLOAD = {"deployment_id": "w", "phase": "ready", "replicas": 2, "settled": False}
WORKLOADS = Workloads(workloads=[WORKLOAD], instances=[instance(0), instance(1)], told=[READY, CHANGED])


def test_nothing_is_found_in_sound_workloads():
    assert workloads_violations(WORKLOADS, at_rest=True) == []


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        (replace(WORKLOADS, told=[READY, READY]), "E: w was told"),
        (replace(WORKLOADS, told=[READY, STOPPED, STOPPED]), "E: w was told"),
        (replace(WORKLOADS, told=[STOPPED, READY]), "E: w was told of after its end"),
        (replace(WORKLOADS, told=[CHANGED, READY]), "E: w changed before it was ready"),
        (replace(WORKLOADS, told=[READY, CHANGED, CHANGED]), "E: the revisions of w were [1, 2, 2]"),
        (replace(WORKLOADS, instances=[instance(0), instance(1, port=4000)]), "G: port 4000 has 2 owners"),
        (replace(WORKLOADS, instances=[instance(0), instance(0, port=4009)]), "G: ('w', 'web', 0) runs 2 times"),
        (replace(WORKLOADS, workloads=[WORKLOAD | {"settled": True}]), "G: web.0 of w outlived its workload"),
        (replace(WORKLOADS, workloads=[]), "G: web.0 of w outlived its workload"),
        (replace(WORKLOADS, instances=[instance(0)]), "A: w is ready with 1 of 2 ready"),
        (replace(WORKLOADS, workloads=[WORKLOAD | {"phase": "starting"}]), "A: w is starting with 2 of 2 ready"),
        (replace(WORKLOADS, outbox=[{"epoch": None}]), "A: events of the runtime's were never published"),
    ],
)
def test_each_violation_of_a_workload_is_found(recorded: Workloads, expected: str):
    found = workloads_violations(recorded, at_rest=True)
    assert any(violation.startswith(expected) for violation in found), found
