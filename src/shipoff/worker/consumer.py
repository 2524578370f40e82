"""Events of the streams, as the worker's own terms."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC

import structlog

from shipoff.common.streams import Event
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.worker.domain import Transition
from shipoff.worker.ports import Recording

_STATE_PREFIX = "DEPLOYMENT_STATE_"

log = structlog.get_logger()


async def on_progress(recording: Recording, event: Event) -> None:
    """Notes what has to be done about an event; whatever is not the worker's business is passed over."""
    message = event.message
    if isinstance(message, events_pb2.DeploymentStateChanged):
        await recording.add_deliveries(_transition(event.id, message))
    elif isinstance(message, events_pb2.ReleaseExpired) and _has_object(message):
        await recording.add_removal(message.artifact.object_key, event.time)


async def on_runtime(events: Sequence[Event]) -> None:
    """Takes runtime's events off the stream; nothing follows from them here yet."""
    log.debug("runtime events passed over", count=len(events))


def _has_object(message: events_pb2.ReleaseExpired) -> bool:
    """Whether something is left that nothing needs: in the object store, or in a registry."""
    return message.artifact_unused and bool(message.artifact.object_key)


def _state(value: types_pb2.DeploymentState.ValueType) -> str:
    """ "building"; empty for none."""
    if value == types_pb2.DEPLOYMENT_STATE_UNSPECIFIED:
        return ""
    return types_pb2.DeploymentState.Name(value).removeprefix(_STATE_PREFIX).lower()


def _transition(event_id: str, message: events_pb2.DeploymentStateChanged) -> Transition:
    return Transition(
        event_id=event_id,
        deployment_id=message.deployment_id,
        project_id=message.project_id,
        project_name=message.project_name,
        environment=message.environment,
        number=message.number,
        from_state=_state(message.from_state),
        to_state=_state(message.to_state),
        reason=message.reason,
        version=message.version,
        time=message.time.ToDatetime(tzinfo=UTC),
        hosts=tuple(message.hosts),
        commit=message.commit,
    )
