"""The use cases: load, decide, save. Each takes an open transaction (`Work`) or the `Store` it opens one from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog

from shipoff.common.errors import NotFound, PreconditionFailed
from shipoff.common.telemetry import NO_CONTEXT, working_on
from shipoff.orchestrator.admission import QueueEntry, Terms, Turns, admissible, refusal, sized, starting_order
from shipoff.orchestrator.domain import (
    RESTING,
    TERMINAL,
    ArtifactKnown,
    Broke,
    BuildFailed,
    BuildSucceeded,
    Cancelled,
    Deployment,
    Event,
    Instruction,
    PauseWanted,
    ProjectRemoved,
    ProvisionFailed,
    Replaced,
    Reserved,
    Scaled,
    SlotGranted,
    SlotRefused,
    State,
    Superseded,
)
from shipoff.orchestrator.ports import Store, Work
from shipoff.orchestrator.records import Held, NewDeployment, Used
from shipoff.orchestrator.transitions import decide

SYSTEM = "system"
log = structlog.get_logger()


async def apply(work: Work, deployment: Deployment, event: Event, *, actor: str = SYSTEM) -> Deployment | None:
    """Decides and saves; the deployment as it is then, or None when the event changes nothing."""
    decision = decide(deployment, event)
    if decision is None:
        return None
    after = decision.deployment
    if after.state is State.PRODUCTION and deployment.state is not State.PRODUCTION:
        previous = await work.production(after.project_id, after.environment)
        if previous is not None:
            await apply(work, previous, Replaced(after.number))
    await work.save(deployment, after, actor=actor)
    for instruction in decision.instructions:
        await work.instruct(after, instruction)
    if after.state in TERMINAL and deployment.state not in RESTING and not after.automatic:
        await _put_back_instead(work, after)
    return after


async def _put_back_instead(work: Work, ended: Deployment) -> None:
    """What broke while this one was under way counted on it."""
    broken = await work.broken(ended.project_id, ended.environment)
    if broken is not None:
        await work.instruct(broken, Instruction.PUT_BACK)


async def apply_by_id(work: Work, deployment_id: str, event: Event, *, actor: str = SYSTEM) -> Deployment | None:
    """`apply` on the stored deployment; None as well when there is none."""
    deployment = await work.locked(deployment_id)
    return await apply(work, deployment, event, actor=actor) if deployment else None


async def accept(work: Work, new: NewDeployment) -> None:
    """Stores an accepted deployment and supersedes what it outdates. The same id again does nothing."""
    deployment = await work.insert(new)
    if deployment is None:
        return
    newer = await work.newer_number(deployment)
    if newer is not None:
        await apply(work, deployment, Superseded(newer))
        return
    for older in await work.older_on_the_way(deployment):
        await apply(work, older, Superseded(deployment.number, deployment.commit))
    await _provision_files(work, deployment)


async def _provision_files(work: Work, deployment: Deployment) -> None:
    """Files take no room: there is nothing to wait for."""
    if deployment.artifact and deployment.static:
        await apply(work, deployment, ArtifactKnown())


async def give_up(work: Work, deployment_id: str, reason: str) -> None:
    """Its workload will not become ready, or does not stay so: fails what is not live yet; what broke while it served
    makes room for the release before it."""
    deployment = await work.locked(deployment_id)
    if deployment is None:
        return
    if deployment.state is not State.PRODUCTION:
        await apply(work, deployment, ProvisionFailed(reason))
        return
    replaceable = await work.newer_under_way(deployment) or await work.put_back(deployment) is not None
    event = Broke(reason, baked=await work.baked(deployment), replaceable=replaceable)
    decided = await apply(work, deployment, event)
    log.warning("release broke", deployment=deployment.id, number=deployment.number, reason=reason,
                baked=event.baked, put_back=decided is not None)  # fmt: skip


async def put_back(work: Work, project_id: str, deployment_id: str) -> None:
    """Deploys the release before a broken one again; nothing where a newer deployment is under way to replace it.

    The order of locks is that of `accept`: the project's numbers first. Whatever is accepted from now on is newer.
    """
    await work.lock_numbers(project_id)
    broken = await work.locked(deployment_id)
    if broken is None or broken.state is not State.PRODUCTION or not broken.broke or await work.newer_under_way(broken):
        return
    found = await work.put_back(broken)
    if found is None:
        return
    number, new = found
    why = f"puts #{number} back, because #{broken.number} broke: {broken.broke}"
    deployment = await work.insert(replace(new, reason=why))
    if deployment is not None:
        await _provision_files(work, deployment)


async def built(work: Work, deployment_id: str, event: BuildSucceeded | BuildFailed, used: Used | None) -> None:
    """Applies a build's end, and keeps what it used where that says what the next one needs."""
    deployment = await work.locked(deployment_id)
    if deployment is None or await apply(work, deployment, event) is None or used is None:
        return
    if isinstance(event, BuildSucceeded) or event.out_of_memory:
        await work.record_usage(deployment, used, succeeded=isinstance(event, BuildSucceeded))


async def admit(store: Store, terms: Terms) -> int:
    """Grants slots to what waits, as far as the budget goes; how many."""
    if not await store.is_waited():
        return 0
    async with store.begin() as work:
        return await _admitted(work, terms, await work.lock_admission())


async def admit_accepted(work: Work, terms: Terms) -> None:
    """Grants slots in the transaction that accepted something, unless somebody else is at the budget: then after it."""
    if work.has_accepted:
        # Whoever is let in, nobody's request has done it.
        with working_on(NO_CONTEXT):
            await _admitted(work, terms, await work.lock_admission(wait=False))


async def _admitted(work: Work, terms: Terms, reserved: Reserved | None) -> int:
    if reserved is None:
        return 0
    waiting, turns = await work.waiting()
    entries = []
    for entry in waiting:
        reason = refusal(entry, terms, budget=reserved.budget, ceiling=reserved.ceiling)
        if reason:
            await _refuse(work, entry, reason)
        else:
            entries.append(sized(entry, terms, reserved.ceiling))
    ordered = starting_order(entries, turns, terms.weights)
    return await _grant(work, admissible(ordered, reserved.free, reserved.ceiling), turns, terms)


async def _grant(work: Work, entries: Sequence[QueueEntry], turns: Turns, terms: Terms) -> int:
    locked = await work.locked_now([entry.deployment.id for entry in entries]) if entries else {}
    granted, teams = 0, set()
    for entry in entries:
        deployment = locked.get(entry.deployment.id)
        if deployment is None or deployment.version != entry.deployment.version:
            continue
        event = ArtifactKnown() if deployment.artifact else SlotGranted(entry.needs)
        if await apply(work, deployment, event) is None:
            continue
        await work.reserve(deployment, entry.needs)
        granted += 1
        if not deployment.artifact:
            turns = turns.taken(deployment.team_id, terms.weights.get(deployment.team_id, 1))
            teams.add(deployment.team_id)
    if teams:
        await work.take_turns(turns, sorted(teams))
    return granted


async def _refuse(work: Work, entry: QueueEntry, reason: str) -> None:
    locked = await work.locked_now([entry.deployment.id])
    for deployment in locked.values():
        await apply(work, deployment, SlotRefused(reason))


async def scale(store: Store, deployment_id: str, replicas: int) -> bool:
    """Wants so many instances of what serves; False for files. Raises NotFound, PreconditionFailed when there is no room."""
    async with store.begin() as work:
        deployment = await work.locked(deployment_id)
        if deployment is None:
            raise NotFound("there is no such deployment")
        if deployment.state is not State.PRODUCTION:
            raise PreconditionFailed(
                f"deployment #{deployment.number} is {deployment.state}", remedy="only what is in production can be scaled"
            )
        if await apply(work, deployment, Scaled(replicas)) is None:
            return False
        if not deployment.paused:
            await work.resize(deployment, replicas)
    return True


async def pause(store: Store, deployment_id: str, *, paused: bool) -> None:
    """Has what serves rest, or run again; nothing where it does already. What rests reserves nothing.

    Raises NotFound, PreconditionFailed for files, for what does not serve, and when there is no room to run again.
    """
    async with store.begin() as work:
        deployment = await work.locked(deployment_id)
        if deployment is None:
            raise NotFound("there is no such deployment")
        if deployment.state is not State.PRODUCTION or deployment.static:
            kind = "a static site: nothing of it runs" if deployment.static else str(deployment.state)
            raise PreconditionFailed(f"deployment #{deployment.number} is {kind}", remedy="only an app that is live can rest")
        if await apply(work, deployment, PauseWanted(paused=paused)) is None:
            return
        if paused:
            await work.release(deployment)
        else:
            await work.resize(deployment, deployment.replicas)


async def cancel(store: Store, deployment_id: str, actor: str) -> None:
    """Calls a deployment off. Raises NotFound, and PreconditionFailed when it rests already."""
    async with store.begin() as work:
        deployment = await work.locked(deployment_id)
        if deployment is None:
            raise NotFound("there is no such deployment")
        if deployment.state in RESTING:
            raise PreconditionFailed(
                f"deployment #{deployment.number} is {deployment.state} already",
                remedy="only a deployment that is queued, building or provisioning can be cancelled",
            )
        await apply(work, deployment, Cancelled(actor), actor=actor or SYSTEM)


async def remove_project(work: Work, project_id: str, actor: str) -> None:
    """Takes down everything of a deleted project."""
    for deployment in await work.of_project(project_id):
        await apply(work, deployment, ProjectRemoved(), actor=actor or SYSTEM)


async def conclude(store: Store, performed: Sequence[tuple[Held, Event | None]]) -> Sequence[bool]:
    """Records that instructions were performed, and what came of them, in one transaction; which of them were still ours."""
    async with store.begin() as work:
        states = await work.finish([held.task for held, _ in performed])
        ours = [(held, event) for held, event in performed if held.task.id in states]
        outcomes = [(held.record.deployment, event) for held, event in ours if event is not None]
        if outcomes:
            await work.prepare([then.id for then, _ in outcomes], replacing=True)
        for then, event in outcomes:
            with working_on(then.context):
                await apply_by_id(work, then.id, event)
        applied = [held.task for held, event in ours if held.task.instruction is Instruction.PROVISION and event is None]
        called_off = [task for task in applied if states[task.id] in TERMINAL]
        await work.prepare([task.deployment_id for task in called_off])
        for task in called_off:
            await _stop_again(work, task.deployment_id)
    return [held.task.id in states for held, _ in performed]


async def _stop_again(work: Work, deployment_id: str) -> None:
    """A stop that was performed while the workload was being applied found nothing to stop."""
    deployment = await work.locked(deployment_id)
    if deployment is not None and not deployment.static:
        await work.instruct(deployment, Instruction.STOP_WORKLOAD)


async def observe(store: Store, deployment_id: str, event: Event) -> None:
    """Applies what a sweep has found."""
    async with store.begin() as work:
        after = await apply_by_id(work, deployment_id, event)
    if after is not None:
        log.info("sweep applied", deployment=deployment_id, event=type(event).__name__, state=after.state)
