"""streams.logs.ingest → chunks."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

from shipoff.common.consumers import BatchHandler
from shipoff.common.errors import InvalidInput
from shipoff.common.streams import Event
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.log import handlers
from shipoff.log.hub import Hub
from shipoff.log.ports import Chunks

_STREAM_ID_LENGTH = 512


def storing(store: Chunks, hub: Hub) -> BatchHandler:
    """A batch handler that stores the lines of LogBatch events; it raises InvalidInput for one that cannot be stored."""

    async def handle(events: Sequence[Event]) -> None:
        batches = [_checked(event) for event in events]
        await handlers.ingest(store, hub, batches, now=datetime.now(UTC))

    return handle


def _checked(event: Event) -> events_pb2.LogBatch:
    batch = event.message
    if not isinstance(batch, events_pb2.LogBatch):
        raise InvalidInput(f"{event.type} is no batch of lines", field="type")
    try:
        batch.deployment_id = str(uuid.UUID(batch.deployment_id))
    except ValueError as error:
        raise InvalidInput("not a deployment's id", field="deployment_id") from error
    if not 0 < len(batch.stream_id) <= _STREAM_ID_LENGTH or "\0" in batch.stream_id + batch.project_id + batch.team_id:
        raise InvalidInput("empty, too long or with a NUL character", field="stream_id")
    if batch.source == types_pb2.LOG_SOURCE_UNSPECIFIED:
        raise InvalidInput("a line has to have a source", field="source")
    if any(line.sequence < 1 for line in batch.lines):
        raise InvalidInput("sequences count from 1", field="lines.sequence")
    return batch
