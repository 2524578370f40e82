"""What the streams tell: requests from project, outcomes from build, readiness from runtime.

Each function runs inside the inbox transaction of its event's batch and only touches the store.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from shipoff.common.streams import Event as StreamEvent
from shipoff.common.telemetry import current
from shipoff.contracts.events.v1 import events_pb2
from shipoff.orchestrator import handlers, messages
from shipoff.orchestrator.domain import EndpointsReady
from shipoff.orchestrator.ports import Work


async def _requested(work: Work, message: events_pb2.DeploymentRequested) -> None:
    await handlers.accept(work, messages.new_deployment(message, current()))


async def _project_deleted(work: Work, message: events_pb2.ProjectDeleted) -> None:
    await handlers.remove_project(work, message.project_id, message.deleted_by)


async def _build_succeeded(work: Work, message: events_pb2.BuildSucceeded) -> None:
    await handlers.built(work, message.deployment_id, messages.build_succeeded(message), messages.used(message.usage))


async def _build_failed(work: Work, message: events_pb2.BuildFailed) -> None:
    await handlers.built(work, message.deployment_id, messages.build_failed(message), messages.used(message.usage))


async def _endpoints(work: Work, message: events_pb2.WorkloadReady | events_pb2.WorkloadEndpointsChanged) -> None:
    event = EndpointsReady(message.revision, messages.endpoints(message.endpoints))
    await handlers.apply_by_id(work, message.deployment_id, event)


async def _workload_failed(work: Work, message: events_pb2.WorkloadFailed) -> None:
    await handlers.give_up(work, message.deployment_id, message.reason or "it failed to start")


_HANDLERS: dict[type, Callable[[Work, Any], Awaitable[None]]] = {
    events_pb2.DeploymentRequested: _requested,
    events_pb2.ProjectDeleted: _project_deleted,
    events_pb2.BuildSucceeded: _build_succeeded,
    events_pb2.BuildFailed: _build_failed,
    events_pb2.WorkloadReady: _endpoints,
    events_pb2.WorkloadEndpointsChanged: _endpoints,
    events_pb2.WorkloadFailed: _workload_failed,
}


_OF_A_DEPLOYMENT = (
    events_pb2.BuildSucceeded,
    events_pb2.BuildFailed,
    events_pb2.WorkloadReady,
    events_pb2.WorkloadEndpointsChanged,
    events_pb2.WorkloadFailed,
)
# The messages that are the orchestrator's concern; its own news come along the same stream.
CONCERN = frozenset(_HANDLERS)


async def prepare(work: Work, events: Sequence[StreamEvent]) -> None:
    """Reads and locks what a batch of events of CONCERN is about."""
    told = [(event.message, event.context) for event in events]
    new = [messages.new_deployment(one, context) for one, context in told if isinstance(one, events_pb2.DeploymentRequested)]
    others = {one.deployment_id for one, _ in told if isinstance(one, _OF_A_DEPLOYMENT)}
    await work.prepare(others, new=new)


async def handle(work: Work, event: StreamEvent) -> None:
    """Applies one event of CONCERN."""
    await _HANDLERS[type(event.message)](work, event.message)
