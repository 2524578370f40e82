"""The use cases: load, decide, save. Each takes an open transaction (`Work`) or the `Store` it opens one from."""

from __future__ import annotations

from dataclasses import replace

import structlog

from shipoff.common.errors import NotFound, PreconditionFailed
from shipoff.orchestrator.domain import (
    RESTING,
    ArtifactKnown,
    Cancelled,
    Deployment,
    Event,
    NewDeployment,
    ProjectRemoved,
    Replaced,
    Resources,
    SlotGranted,
    State,
    Superseded,
    Task,
    admissible,
)
from shipoff.orchestrator.ports import Store, Work
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
    return after


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
        await apply(work, older, Superseded(deployment.number))
    if deployment.artifact:
        await apply(work, deployment, ArtifactKnown())


async def admit(store: Store, needs: Resources) -> int:
    """Grants slots to what waits, as far as the budget goes; how many."""
    async with store.begin() as work:
        reserved = await work.lock_admission()
        waiting = [replace(entry, needs=needs) for entry in await work.waiting()]
        granted = 0
        for entry in admissible(waiting, reserved.free):
            deployment = await work.locked(entry.deployment.id)
            if deployment is None or await apply(work, deployment, SlotGranted()) is None:
                continue
            await work.reserve(deployment, entry.needs)
            granted += 1
    return granted


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


async def conclude(store: Store, task: Task, event: Event | None) -> None:
    """Records that an instruction was performed, and what came of it, in one transaction."""
    async with store.begin() as work:
        await work.finish(task)
        if event is not None:
            await apply_by_id(work, task.deployment_id, event)


async def observe(store: Store, deployment_id: str, event: Event) -> None:
    """Applies what a sweep has found."""
    async with store.begin() as work:
        after = await apply_by_id(work, deployment_id, event)
    if after is not None:
        log.info("sweep applied", deployment=deployment_id, event=type(event).__name__, state=after.state)
