"""The invariants, replayed over what the services recorded: pure functions from rows to the violations found in them.

Used after every scenario of tests/faults. `at_rest` adds what holds once nothing is under way any more. The letters are
those of the invariants: A an accepted deployment ends · B one PRODUCTION a place · E effects once · F routes lead to what
serves · G reservations within the budget, none leaked · H legal transitions only · N the newest commit wins.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from shipoff.common.postgres import Database
from shipoff.common.streams import GROUPS, Streams, dead_stream
from shipoff.contracts.events.v1 import events_pb2
from shipoff.orchestrator.transitions import LEGAL

Row = Mapping[str, Any]
Rows = Sequence[Row]
ENDS = frozenset({"failed", "inactive"})
RESTING = ENDS | {"production"}
_LEGAL = frozenset((before.value, after.value) for before, after in LEGAL)


@dataclass(frozen=True)
class Deployments:
    """What the orchestrator recorded."""

    deployments: Rows = ()
    transitions: Rows = ()
    reservations: Rows = ()
    budget: Rows = ()
    instructions: Rows = ()
    outbox: Rows = ()


@dataclass(frozen=True)
class Builds:
    """What the build service recorded, and the outcomes that it published."""

    builds: Rows = ()
    outbox: Rows = ()
    outcomes: Sequence[Any] = ()


@dataclass(frozen=True)
class Workloads:
    """What the runtime recorded, and what it told of its workloads."""

    workloads: Rows = ()
    instances: Rows = ()
    outbox: Rows = ()
    told: Sequence[Any] = ()


@dataclass(frozen=True)
class Route:
    """What the edge points at, or pointed at."""

    place: tuple[str, str]
    deployment_id: str
    fence: int


def transitions_are_legal(recorded: Deployments) -> Iterator[str]:
    """H: each is in the table, begins where the last one ended, and is the only one of its version."""
    last: dict[str, Row] = {}
    for step in sorted(recorded.transitions, key=lambda row: (str(row["deployment_id"]), row["version"])):
        who, move = str(step["deployment_id"]), (step["from_state"], step["to_state"])
        before = last.get(who)
        if move not in _LEGAL:
            yield f"H: {who} went {move[0]} → {move[1]}"
        if move[0] != (before["to_state"] if before else "queued"):
            yield f"H: {who} left {move[0]} without having been there"
        if before and step["version"] == before["version"]:
            yield f"H: {who} has two transitions of version {step['version']}"
        if before and step["time"] < before["time"]:
            yield f"H: {who} went {move[0]} → {move[1]} before it got there"
        last[who] = step


def states_are_those_of_the_transitions(recorded: Deployments) -> Iterator[str]:
    """H: what a deployment is, is where its last transition led."""
    last = {
        str(step["deployment_id"]): step["to_state"] for step in sorted(recorded.transitions, key=lambda row: row["version"])
    }
    for row in recorded.deployments:
        expected = last.get(str(row["id"]), "queued")
        if row["state"] != expected:
            yield f"H: {row['id']} is {row['state']}, and its transitions end in {expected}"
    for unknown in last.keys() - {str(row["id"]) for row in recorded.deployments}:
        yield f"H: {unknown} has transitions and is no deployment"


def one_serves_at_a_time(recorded: Deployments) -> Iterator[str]:
    """B and N, replayed in time: one PRODUCTION a place, and none older than one that served before and did not fail."""
    known = {str(row["id"]): row for row in recorded.deployments}
    serving: dict[tuple[str, str], str] = {}
    newest: dict[tuple[str, str], Row] = {}
    for step in sorted(recorded.transitions, key=lambda row: (row["time"], row["to_state"] == "production")):
        row = known.get(str(step["deployment_id"]))
        if row is None:
            continue
        who, place = str(row["id"]), (str(row["project_id"]), row["environment"])
        if step["from_state"] == "production" and serving.get(place) == who:
            del serving[place]
        if step["to_state"] != "production":
            continue
        if place in serving:
            yield f"B: {who} served {place[1]} while {serving[place]} did"
        before = newest.get(place)
        if before is not None and before["number"] > row["number"] and before["state"] != "failed":
            yield f"N: #{row['number']} served after #{before['number']}"
        serving[place] = who
        newest[place] = row if before is None or row["number"] > before["number"] else before


def reservations_fit(recorded: Deployments) -> Iterator[str]:
    """G: what is reserved is the sum of the reservations, within the budget, and of nothing that has ended."""
    states = {str(row["id"]): row["state"] for row in recorded.deployments}
    held = Counter({"cpu_millis": 0, "memory_bytes": 0})
    lasting = Counter(held)
    for row in recorded.reservations:
        held.update(cpu_millis=row["cpu_millis"], memory_bytes=row["memory_bytes"])
        if row["lasting"]:
            lasting.update(cpu_millis=row["cpu_millis"], memory_bytes=row["memory_bytes"])
        state = states.get(str(row["deployment_id"]), "unknown")
        if state in ENDS | {"unknown"}:
            yield f"G: {row['deployment_id']} has ended and holds a reservation"
        elif row["lasting"] is (state == "building"):
            yield f"G: {row['deployment_id']} is {state} and holds {'an app' if row['lasting'] else 'a build'}'s reservation"
    for budget in recorded.budget:
        for name, amount in lasting.items():
            if budget[f"{name}_lasting"] != amount:
                yield f"G: {budget[f'{name}_lasting']} {name} are said to be apps', and theirs are {amount}"
        for name, amount in held.items():
            if budget[f"{name}_reserved"] != amount:
                yield f"G: {budget[f'{name}_reserved']} {name} are reserved, and the reservations are {amount}"
            if amount > budget[name]:
                yield f"G: {amount} {name} are reserved out of {budget[name]}"


def everything_has_ended(recorded: Deployments) -> Iterator[str]:
    """A, at rest: each is at its end or serves, nothing is left to do, every event has been acknowledged by all."""
    for row in recorded.deployments:
        if row["state"] not in RESTING:
            yield f"A: {row['id']} is {row['state']} for good"
    for row in recorded.instructions:
        yield f"A: {row['instruction']} of {row['deployment_id']} was never done"
    if recorded.outbox:
        yield f"A: {len(recorded.outbox)} events of the orchestrator's are still to be acknowledged"


def routes_lead_to_what_serves(recorded: Deployments, routes: Sequence[Route]) -> Iterator[str]:
    """F, at rest: the edge's last word for each place is the deployment in PRODUCTION, and fences only grew."""
    last: dict[tuple[str, str], Route] = {}
    for route in routes:
        if route.place in last and route.fence < last[route.place].fence:
            yield f"F: {route.deployment_id} was routed with fence {route.fence} after {last[route.place].fence}"
        last[route.place] = route
    serving = {
        (str(r["project_id"]), r["environment"]): str(r["id"]) for r in recorded.deployments if r["state"] == "production"
    }
    for place, who in serving.items():
        led = last[place].deployment_id if place in last else "nothing"
        if led != who:
            yield f"F: {place[1]} is led to {led}, and {who} serves"


def builds_end_once(recorded: Builds) -> Iterator[str]:
    """E: each attempt that has ended told so exactly once, as it is recorded; no two of a deployment run."""
    told = Counter((one.deployment_id, one.attempt) for one in recorded.outcomes)
    kinds = {(one.deployment_id, one.attempt): isinstance(one, events_pb2.BuildSucceeded) for one in recorded.outcomes}
    running: Counter[str] = Counter()
    for row in recorded.builds:
        key = (str(row["deployment_id"]), row["attempt"])
        if row["state"] == "running":
            running[key[0]] += 1
            if key in told:
                yield f"E: attempt {key[1]} of {key[0]} runs and its end was told"
            continue
        if told[key] > 1:
            yield f"E: the end of attempt {key[1]} of {key[0]} was told {told[key]} times"
        if key in kinds and kinds[key] != (row["state"] == "succeeded"):
            yield f"E: attempt {key[1]} of {key[0]} {row['state']}, and the opposite was told"
        if row["state"] == "succeeded" and not row["artifact"]:
            yield f"E: attempt {key[1]} of {key[0]} succeeded without an artifact"
    yield from (f"E: {count} attempts of {who} run" for who, count in running.items() if count > 1)
    for deployment_id, attempt in told.keys() - {(str(row["deployment_id"]), row["attempt"]) for row in recorded.builds}:
        yield f"E: the end of attempt {attempt} of {deployment_id} was told, which there is not"


def builds_have_ended(recorded: Builds) -> Iterator[str]:
    """A, at rest: every attempt is over, told, and cleaned up."""
    told = {(one.deployment_id, one.attempt) for one in recorded.outcomes}
    for row in recorded.builds:
        name = f"attempt {row['attempt']} of {row['deployment_id']}"
        if row["state"] == "running":
            yield f"A: {name} runs for good"
        elif (str(row["deployment_id"]), row["attempt"]) not in told:
            yield f"A: the end of {name} was never told"
        elif row["cleaned_at"] is None:
            yield f"A: {name} was not cleaned up"
    if any(row["epoch"] is None for row in recorded.outbox):
        yield "A: events of the build service's were never published"


def workloads_are_told_in_order(recorded: Workloads) -> Iterator[str]:
    """E: ready at most once, changes only after that with growing revisions, one end and nothing after it."""
    by_workload: dict[str, list[Any]] = defaultdict(list)
    for event in recorded.told:
        by_workload[event.deployment_id].append(event)
    for who, events in by_workload.items():
        kinds = [type(event).__name__ for event in events]
        if kinds.count("WorkloadReady") > 1 or kinds.count("WorkloadStopped") > 1:
            yield f"E: {who} was told {kinds}"
        if "WorkloadStopped" in kinds[:-1]:
            yield f"E: {who} was told of after its end: {kinds}"
        if "WorkloadEndpointsChanged" in kinds and "WorkloadReady" not in kinds[: kinds.index("WorkloadEndpointsChanged")]:
            yield f"E: {who} changed before it was ready"
        revisions = [event.revision for event in events if hasattr(event, "revision")]
        if revisions != sorted(set(revisions)):
            yield f"E: the revisions of {who} were {revisions}"


def instances_are_of_their_workload(recorded: Workloads) -> Iterator[str]:
    """G: a run for each slot at most, none of what is settled, no port twice."""
    known = {str(row["deployment_id"]): row for row in recorded.workloads}
    live = [row for row in recorded.instances if row["state"] != "waiting"]
    ports = Counter(row["port"] for row in live if row["port"])
    yield from (f"G: port {port} has {count} owners" for port, count in ports.items() if count > 1)
    slots = Counter((str(r["deployment_id"]), r["process"], r["index"]) for r in live if r["state"] in ("starting", "ready"))
    yield from (f"G: {slot} runs {count} times" for slot, count in slots.items() if count > 1)
    for row in recorded.instances:
        owner = known.get(str(row["deployment_id"]))
        if owner is None or owner["settled"]:
            yield f"G: {row['process']}.{row['index']} of {row['deployment_id']} outlived its workload"


def workloads_are_at_rest(recorded: Workloads) -> Iterator[str]:
    """A, at rest: each is settled or has all its replicas ready, and every event is published."""
    for row in recorded.workloads:
        if row["settled"]:
            continue
        ready = Counter(
            one["process"]
            for one in recorded.instances
            if str(one["deployment_id"]) == str(row["deployment_id"]) and one["state"] == "ready"
        )
        if row["phase"] != "ready" or ready["web"] != row["replicas"]:
            yield f"A: {row['deployment_id']} is {row['phase']} with {ready['web']} of {row['replicas']} ready"
    if any(row["epoch"] is None for row in recorded.outbox):
        yield "A: events of the runtime's were never published"


def deployments_violations(recorded: Deployments, *, at_rest: bool, routes: Sequence[Route] | None = None) -> list[str]:
    """Everything that is wrong with what the orchestrator recorded."""
    always = (
        transitions_are_legal,
        states_are_those_of_the_transitions,
        one_serves_at_a_time,
        reservations_fit,
    )
    found = [violation for check in always for violation in check(recorded)]
    if at_rest:
        found += everything_has_ended(recorded)
        found += routes_lead_to_what_serves(recorded, routes) if routes is not None else []
    return found


def builds_violations(recorded: Builds, *, at_rest: bool) -> list[str]:
    """Everything that is wrong with what the build service recorded."""
    return [*builds_end_once(recorded), *(builds_have_ended(recorded) if at_rest else [])]


def workloads_violations(recorded: Workloads, *, at_rest: bool) -> list[str]:
    """Everything that is wrong with what the runtime recorded."""
    always = [*workloads_are_told_in_order(recorded), *instances_are_of_their_workload(recorded)]
    return always + (list(workloads_are_at_rest(recorded)) if at_rest else [])


async def _tables(database: Database, *names: str) -> dict[str, Rows]:
    """These tables at one moment: nothing that is written in between makes them contradict each other."""
    snapshot = sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    async with database.transaction() as tx:
        await tx.execute(snapshot)
        return {name: await tx.all(sa.select(sa.text("*")).select_from(sa.table(name))) for name in names}


async def recorded_deployments(database: Database) -> Deployments:
    """What the orchestrator's database says."""
    names = ("deployments", "transitions", "reservations", "budget", "instructions", "outbox")
    return Deployments(**await _tables(database, *names))


async def recorded_builds(database: Database, outcomes: Sequence[Any]) -> Builds:
    """What the build service's database says."""
    return Builds(**await _tables(database, "builds", "outbox"), outcomes=outcomes)


async def recorded_workloads(database: Database, told: Sequence[Any]) -> Workloads:
    """What the runtime's database says."""
    return Workloads(**await _tables(database, "workloads", "instances", "outbox"), told=told)


async def dead_letters(streams: Streams) -> list[str]:
    """What groups gave up on, by reason: none, unless a scenario means it."""
    return [
        f"{stream}: {fields[b'group'].decode()} gave up: {fields[b'reason'].decode()}"
        for stream in GROUPS
        for _, fields in await streams.client.xrange(dead_stream(stream))
    ]


async def come_to_rest(find: Callable[[], Awaitable[list[str]]], eventually: Callable[..., Awaitable[Any]]) -> None:
    """Waits until nothing is violated; fails with what still is."""

    async def sound() -> bool:
        violations = await find()
        assert violations == [], "\n".join(violations)
        return True

    await eventually(sound)
