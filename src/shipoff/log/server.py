"""LogService: gRPC ↔ domain."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from shipoff.contracts.log.v1 import log_pb2, log_pb2_grpc
from shipoff.log import handlers
from shipoff.log.domain import Query
from shipoff.log.hub import Hub
from shipoff.log.ports import Chunks

_DEFAULT_LIMIT = 1000
_MESSAGE_BYTES = 4 << 20


class LogServer(log_pb2_grpc.LogServiceServicer):
    """Answers from the stored chunks and the hub."""

    def __init__(self, store: Chunks, hub: Hub) -> None:
        self._store = store
        self._hub = hub

    async def ReadLogs(self, request: log_pb2.ReadLogsRequest, context: Any) -> log_pb2.ReadLogsResponse:
        query = Query(
            deployment_id=request.deployment_id.lower(),
            sources=frozenset(request.sources),
            after=max(0, request.after),
            tail=request.tail,
            limit=request.limit or _DEFAULT_LIMIT,
        )
        page = await handlers.read(self._store, query)
        return log_pb2.ReadLogsResponse(entries=page.entries, more=page.more)

    async def FollowLogs(self, request: log_pb2.FollowLogsRequest, context: Any) -> AsyncIterator[log_pb2.FollowLogsResponse]:
        query = Query(request.deployment_id.lower(), sources=frozenset(request.sources), after=max(0, request.after))
        async for followed in handlers.follow(self._store, self._hub, query):
            for message in _messages(followed):
                yield message


def _messages(followed: handlers.Followed) -> Iterator[log_pb2.FollowLogsResponse]:
    """As many messages as it takes to stay below the size of one."""
    gap = followed.gap
    for part in _parts(followed.entries):
        yield log_pb2.FollowLogsResponse(entries=part, gap=gap)
        gap = 0


def _parts(entries: Sequence[log_pb2.Entry]) -> Iterator[Sequence[log_pb2.Entry]]:
    start = size = 0
    for index, entry in enumerate(entries):
        size += entry.ByteSize()
        if size > _MESSAGE_BYTES and index > start:
            yield entries[start:index]
            start, size = index, entry.ByteSize()
    yield entries[start:]
