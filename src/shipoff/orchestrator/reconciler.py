"""The sweep: what a lost message, a lost process or a lost clock tick would leave lying is found here."""

from __future__ import annotations

import structlog

from shipoff.common.errors import NotFound, TemporaryError
from shipoff.common.telemetry import working_on
from shipoff.orchestrator import handlers
from shipoff.orchestrator.domain import DeadlinePassed, Deployment, Instruction, State
from shipoff.orchestrator.ports import Outside, Store

_LOOKED_AFTER_S = 10.0
_AT_ONCE = 50
log = structlog.get_logger()


async def sweep(store: Store, outside: Outside) -> None:
    """One pass: deadlines, then the builds and workloads that nobody has heard of for a while."""
    for deployment_id, limit_s in await store.overdue():
        await handlers.observe(store, deployment_id, DeadlinePassed(limit_s))
    for deployment in await store.unchecked(idle_s=_LOOKED_AFTER_S, limit=_AT_ONCE):
        with working_on(deployment.context):
            try:
                await _look_after(store, outside, deployment)
            except TemporaryError as error:
                log.info("sweep waits", deployment=deployment.id, error=str(error))


async def _look_after(store: Store, outside: Outside, deployment: Deployment) -> None:
    if deployment.static and deployment.state is State.PROVISIONING:
        # Whether the edge has it is not asked: publishing and switching again are cheap and change nothing twice.
        await _again(store, deployment, Instruction.PROVISION)
        return
    building = deployment.state is State.BUILDING
    try:
        event = await (outside.build_outcome(deployment) if building else outside.workload_outcome(deployment))
    except NotFound:
        await _again(store, deployment, Instruction.START_BUILD if building else Instruction.PROVISION)
        return
    if event is not None:
        await handlers.observe(store, deployment.id, event)
        if not building:
            await _again(store, deployment, Instruction.SWITCH_ROUTE)


async def _again(store: Store, deployment: Deployment, instruction: Instruction) -> None:
    async with store.begin() as work:
        current = await work.locked(deployment.id)
        if current is not None and current.version == deployment.version:
            await work.instruct(current, instruction)
            log.info("sweep instructs again", deployment=deployment.id, instruction=instruction)
