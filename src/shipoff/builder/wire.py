"""The connection to BuilderService. Its own small one: what the services share takes a second to load, a builder has none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio

from shipoff.common import errors
from shipoff.common.errors import ShipoffError
from shipoff.contracts.build.v1 import build_pb2_grpc

_MAX_MESSAGE_BYTES = 16 << 20
_OPTIONS = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    # Every session has a connection of its own: one that broke says nothing about the next.
    ("grpc.use_local_subchannel_pool", 1),
]
_CLASSES: dict[grpc.StatusCode, type[ShipoffError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidInput,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: errors.PreconditionFailed,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.ABORTED: errors.Aborted,
    grpc.StatusCode.DATA_LOSS: errors.DataLoss,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Exhausted,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
}


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[build_pb2_grpc.BuilderServiceStub]:
    """A stub to use inside the block, which raises ShipoffError; what is no answer of the service's is Unavailable."""
    async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
        try:
            yield build_pb2_grpc.BuilderServiceStub(channel)
        except grpc.aio.AioRpcError as error:
            kind = _CLASSES.get(error.code(), errors.Unavailable)
            raise kind(error.details() or error.code().name) from error
