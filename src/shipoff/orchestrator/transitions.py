"""The state machine: one table, and `decide`. Nothing else changes a deployment's state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from shipoff.orchestrator.domain import (
    MAX_ATTEMPTS,
    ArtifactKnown,
    Broke,
    BuildFailed,
    BuildSucceeded,
    Cancelled,
    DeadlinePassed,
    Decision,
    Deployment,
    EndpointsReady,
    Event,
    Instruction,
    PauseWanted,
    ProjectRemoved,
    ProvisionFailed,
    ReleasePublished,
    Replaced,
    RouteSwitched,
    RouteTaken,
    Scaled,
    SlotGranted,
    SlotRefused,
    State,
    Superseded,
    mebibytes,
)

Rule = Callable[[Deployment, Any], Decision | None]


def _to(deployment: Deployment, state: State, reason: str = "", *instructions: Instruction) -> Decision:
    return Decision(replace(deployment, state=state, reason=reason), instructions)


def _start_build(deployment: Deployment, event: SlotGranted) -> Decision | None:
    if deployment.artifact:
        return None
    started = replace(deployment, attempt=deployment.attempt + 1, slot=event.slot)
    return _to(started, State.BUILDING, "", Instruction.START_BUILD)


def _build_again(deployment: Deployment, event: SlotGranted) -> Decision | None:
    if not deployment.awaits_slot:
        return None
    again = replace(deployment, awaits_slot=False, slot=event.slot)
    reason = f"{deployment.out_of_memory}; tried again with {mebibytes(event.slot.memory_bytes)}"
    return _to(again, State.BUILDING, reason, Instruction.START_BUILD)


def _refuse(deployment: Deployment, event: SlotRefused) -> Decision | None:
    waits = deployment.state is State.QUEUED or deployment.awaits_slot
    return _to(replace(deployment, awaits_slot=False), State.FAILED, event.reason) if waits else None


def _scale(deployment: Deployment, event: Scaled) -> Decision | None:
    if deployment.static:
        return None
    return Decision(replace(deployment, replicas=event.replicas), (Instruction.SCALE_WORKLOAD,))


def _pause(deployment: Deployment, event: PauseWanted) -> Decision | None:
    """The route first: nobody is led to an instance that goes. Resumed, it is led to them when they are ready."""
    if deployment.static or deployment.paused == event.paused:
        return None
    changed = replace(deployment, paused=event.paused, endpoints=())
    route = (Instruction.SWITCH_ROUTE,) if event.paused else ()
    return Decision(changed, (*route, Instruction.PAUSE_WORKLOAD))


def _provision_known(deployment: Deployment, _: ArtifactKnown) -> Decision | None:
    if not deployment.artifact:
        return None
    return _to(deployment, State.PROVISIONING, deployment.reason, Instruction.PROVISION)


def _built(deployment: Deployment, event: BuildSucceeded) -> Decision | None:
    if event.attempt != deployment.attempt:
        return None
    built = replace(
        deployment,
        artifact=event.artifact,
        plan=event.plan,
        static=event.static,
        commit=event.commit or deployment.commit,
    )
    # The reason stays with this step: it tells of a build that had to be tried again.
    return _to(built, State.PROVISIONING, deployment.reason, Instruction.PROVISION)


def _build_failed(deployment: Deployment, event: BuildFailed) -> Decision | None:
    if event.attempt != deployment.attempt:
        return None
    if event.lost and deployment.attempt < MAX_ATTEMPTS:
        again = replace(deployment, attempt=deployment.attempt + 1, reason=event.reason)
        return Decision(again, (Instruction.START_BUILD,))
    if event.out_of_memory:
        return _out_of_memory(deployment, event)
    return _to(deployment, State.FAILED, event.reason)


def _out_of_memory(deployment: Deployment, event: BuildFailed) -> Decision:
    """Once more with a larger slot, which has to be waited for; a second time is the end."""
    peak = event.peak_memory_bytes or deployment.slot.memory_bytes
    words = f"{event.step or 'the build'} was killed at {mebibytes(peak)}"
    if deployment.out_of_memory:
        remedy = "have it use less memory, or give builds a larger budget"
        slot = mebibytes(deployment.slot.memory_bytes)
        return _to(deployment, State.FAILED, f"{deployment.out_of_memory}; tried again with {slot}, where {words}: {remedy}")
    again = replace(deployment, attempt=deployment.attempt + 1, out_of_memory=words, awaits_slot=True)
    return _to(again, State.BUILDING, f"{words}; waits for more memory to try again")


def _published(deployment: Deployment, _: ReleasePublished) -> Decision | None:
    return Decision(deployment, (Instruction.SWITCH_ROUTE,)) if deployment.static else None


def _endpoints(deployment: Deployment, event: EndpointsReady) -> Decision | None:
    if deployment.static or event.revision <= deployment.revision:
        return None
    if deployment.paused:
        # What was on its way when it was paused.
        return Decision(replace(deployment, revision=event.revision))
    ready = replace(deployment, revision=event.revision, endpoints=event.endpoints)
    # An empty set keeps the route: the edge goes on trying the addresses it has while instances restart.
    return Decision(ready, (Instruction.SWITCH_ROUTE,) if event.endpoints else ())


def _switched(deployment: Deployment, event: RouteSwitched) -> Decision | None:
    if event.revision != deployment.revision and not deployment.static:
        return None
    # Why something was put back stays of interest while it serves.
    return _to(deployment, State.PRODUCTION, deployment.reason if deployment.automatic else "")


def _outrun(deployment: Deployment, _: RouteTaken) -> Decision:
    stop = () if deployment.static else (Instruction.STOP_WORKLOAD,)
    return _to(deployment, State.INACTIVE, "superseded: a newer deployment serves already", *stop)


def _fail(deployment: Deployment, event: ProvisionFailed) -> Decision:
    return _to(deployment, State.FAILED, event.reason, *_undo(deployment))


def _supersede(deployment: Deployment, event: Superseded) -> Decision:
    commit = f" ({event.commit[:10]})" if event.commit else ""
    return _to(deployment, State.INACTIVE, f"superseded by #{event.by_number}{commit}", *_undo(deployment))


def _cancel(deployment: Deployment, event: Cancelled) -> Decision:
    return _to(deployment, State.INACTIVE, f"cancelled by {event.actor}" if event.actor else "cancelled", *_undo(deployment))


def _time_out(deployment: Deployment, event: DeadlinePassed) -> Decision:
    reasons = {
        State.QUEUED: "no build slot got free",
        State.BUILDING: "no larger slot got free" if deployment.awaits_slot else "the build timed out: it did not end",
        State.PROVISIONING: "it never became ready",
    }
    reason = f"{reasons[deployment.state]} within {event.limit_s:.0f} s"
    return _to(deployment, State.FAILED, reason, *_undo(deployment))


def _break(deployment: Deployment, event: Broke) -> Decision | None:
    """It goes on, as well as it can, until what takes its place answers.

    One that was put back itself is not followed by an older one: then it is hardly the release that is to blame.
    """
    if event.baked or deployment.automatic or deployment.broke or not event.replaceable:
        return None
    broken = replace(deployment, broke=event.reason, reason=f"it broke while serving: {event.reason}")
    return Decision(broken, (Instruction.PUT_BACK,))


def _replace(deployment: Deployment, event: Replaced) -> Decision:
    if deployment.broke:
        reason = f"it broke while serving: {deployment.broke}; #{event.by_number} took its place"
        return _to(deployment, State.FAILED, reason, *_undo(deployment))
    return _to(deployment, State.INACTIVE, f"replaced by #{event.by_number}", *_undo(deployment))


def _remove(deployment: Deployment, _: ProjectRemoved) -> Decision:
    return _to(deployment, State.INACTIVE, "the project was deleted", *_undo(deployment), Instruction.REMOVE_ROUTE)


def _undo(deployment: Deployment) -> tuple[Instruction, ...]:
    """What takes back what the present state has begun."""
    if deployment.state is State.BUILDING:
        return (Instruction.CANCEL_BUILD,)
    stop = () if deployment.static else (Instruction.STOP_WORKLOAD,)
    if deployment.state is State.PROVISIONING:
        return (Instruction.RESTORE_ROUTE, *stop)
    return stop if deployment.state is State.PRODUCTION else ()


_ON_THE_WAY = (State.QUEUED, State.BUILDING, State.PROVISIONING)

TABLE: dict[tuple[State, type], Rule] = {
    (State.QUEUED, SlotGranted): _start_build,
    (State.BUILDING, SlotGranted): _build_again,
    (State.PRODUCTION, Scaled): _scale,
    (State.PRODUCTION, PauseWanted): _pause,
    **{(state, SlotRefused): _refuse for state in (State.QUEUED, State.BUILDING)},
    (State.QUEUED, ArtifactKnown): _provision_known,
    (State.BUILDING, BuildSucceeded): _built,
    (State.BUILDING, BuildFailed): _build_failed,
    (State.PROVISIONING, ReleasePublished): _published,
    (State.PROVISIONING, EndpointsReady): _endpoints,
    (State.PROVISIONING, RouteSwitched): _switched,
    (State.PROVISIONING, RouteTaken): _outrun,
    (State.PROVISIONING, ProvisionFailed): _fail,
    (State.PRODUCTION, EndpointsReady): _endpoints,
    (State.PRODUCTION, Broke): _break,
    (State.PRODUCTION, Replaced): _replace,
    (State.PRODUCTION, ProjectRemoved): _remove,
    **{(state, Superseded): _supersede for state in (State.QUEUED, State.BUILDING)},
    **{(state, Cancelled): _cancel for state in _ON_THE_WAY},
    **{(state, ProjectRemoved): _remove for state in _ON_THE_WAY},
    **{(state, DeadlinePassed): _time_out for state in _ON_THE_WAY},
}

# The state that each rule can lead to, where that is another one, or another attempt; a test holds the rules to it.
TARGETS: dict[Rule, tuple[State, ...]] = {
    _start_build: (State.BUILDING,),
    _build_again: (State.BUILDING,),
    _refuse: (State.FAILED,),
    _scale: (),
    _pause: (),
    _provision_known: (State.PROVISIONING,),
    _built: (State.PROVISIONING,),
    _build_failed: (State.BUILDING, State.FAILED),
    _published: (),
    _endpoints: (),
    _switched: (State.PRODUCTION,),
    _outrun: (State.INACTIVE,),
    _fail: (State.FAILED,),
    _break: (),
    _replace: (State.INACTIVE, State.FAILED),
    _remove: (State.INACTIVE,),
    _supersede: (State.INACTIVE,),
    _cancel: (State.INACTIVE,),
    _time_out: (State.FAILED,),
}


def moves() -> list[tuple[State, type, State]]:
    """Every (from, event, to) that the table can make, in its order: what the diagram is drawn from."""
    return [(state, event, target) for (state, event), rule in TABLE.items() for target in TARGETS[rule]]


# For the check of recorded histories.
LEGAL: frozenset[tuple[State, State]] = frozenset((before, after) for before, _, after in moves() if before is not after)


def decide(deployment: Deployment, event: Event) -> Decision | None:
    """The deployment after the event and what has to be done; None when the event changes nothing here.

    A stale event (of an older attempt or revision) and one that the state does not know are such.
    """
    rule = TABLE.get((deployment.state, type(event)))
    decision = rule(deployment, event) if rule else None
    if decision is None:
        return None
    return replace(decision, deployment=replace(decision.deployment, version=deployment.version + 1))
