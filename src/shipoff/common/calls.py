"""The calling side of gRPC: every call has a deadline, and fails with the errors that the other side raised.

The only place that opens a channel: for services through common/rpc.py, which adds the ids, and for the builder, whose start
must not wait for what the services load.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

# Children are started by fork and exec and use no gRPC before exec: its handlers would only print warnings.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
import grpc.aio
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from shipoff.common import errors
from shipoff.common.errors import ShipoffError, TemporaryError
from shipoff.common.failpoints import crossing

DEFAULT_TIMEOUT_S = 10.0
# A peer that does not answer a ping for so long is gone: what streams from or to it ends. Asked as often while a call lasts.
KEEPALIVE_S = 20.0
_MAX_MESSAGE_BYTES = 16 << 20
# Of both sides.
OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    # A stream may be silent for any number of pings.
    ("grpc.http2.max_pings_without_data", 0),
]
_CLIENT_OPTIONS: list[tuple[str, int]] = [
    *OPTIONS,
    # A peer that restarts is found again within a second instead of the default two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Every service is its own peer: no shared pool of connections between channels to one address.
    ("grpc.use_local_subchannel_pool", 1),
]
CODES: dict[type[ShipoffError], grpc.StatusCode] = {
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.PreconditionFailed: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Aborted: grpc.StatusCode.ABORTED,
    errors.DataLoss: grpc.StatusCode.DATA_LOSS,
    errors.Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Internal: grpc.StatusCode.INTERNAL,
}
_CLASSES: dict[grpc.StatusCode, type[ShipoffError]] = {
    **{code: kind for kind, code in CODES.items()},
    # What the transport says of a server that dies or is stopped in the middle of a call.
    grpc.StatusCode.UNKNOWN: errors.Unavailable,
    grpc.StatusCode.CANCELLED: errors.Unavailable,
}


def from_call_error(error: grpc.aio.AioRpcError) -> ShipoffError:
    """The error that the other side raised, or what the transport's failure amounts to."""
    kind = _CLASSES.get(error.code(), errors.Internal)
    message = error.details() or error.code().name
    field = remedy = ""
    retry_after_s = 1.0
    status = rpc_status.from_call(cast(grpc.Call, error))
    for detail in status.details if status else []:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            field, remedy = info.metadata["field"], info.metadata["remedy"]
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
    if issubclass(kind, TemporaryError):
        return kind(message, retry_after_s, field=field, remedy=remedy)
    return kind(message, field=field, remedy=remedy)


Ids = Callable[[], Sequence[tuple[str, str]]]


_UNSET: Any = object()


# What a caller shows and believes; another object when that has changed. None: calls are in clear.
Credentials = Callable[[], grpc.ChannelCredentials | None]
_Opens = Callable[[grpc.ChannelCredentials | None], grpc.aio.Channel]


class _Connection:
    """The channel to a peer; another one for calls from now on when the credentials have changed."""

    def __init__(self, open_with: _Opens, credentials: Credentials) -> None:
        self._open_with = open_with
        self._credentials = credentials
        self._shown = credentials()
        # All of them: on the former ones calls may be under way. One without a call has no connection for long.
        self._channels = [open_with(self._shown)]

    def current(self) -> grpc.aio.Channel:
        """The channel for a new call."""
        if (credentials := self._credentials()) is not self._shown:
            self._shown = credentials
            self._channels.append(self._open_with(credentials))
        return self._channels[-1]

    async def close(self) -> None:
        """Ends the calls that are under way."""
        for opened in self._channels:
            await opened.close()


class _Call:
    """A multi-callable with a deadline, the ids and our errors."""

    def __init__(self, method: Callable[[grpc.aio.Channel], Any], connection: _Connection, ids: Ids, *, streams: bool) -> None:
        self._method = method
        self._connection = connection
        self._channel = connection.current()
        self._inner = method(self._channel)
        self._ids = ids
        self._streams = streams

    def __call__(self, request: Any, *, timeout: float | None = _UNSET, metadata: Sequence[tuple[str, str]] = ()) -> Any:
        deadline = DEFAULT_TIMEOUT_S if timeout is _UNSET else timeout
        if (channel := self._connection.current()) is not self._channel:
            self._channel, self._inner = channel, self._method(channel)
        call = self._inner(request, timeout=deadline, metadata=(*self._ids(), *metadata))
        return self._stream(call) if self._streams else self._unary(call)

    @staticmethod
    async def _unary(call: Any) -> Any:
        crossing("before call")
        try:
            answer = await call
            crossing("after call")
            return answer
        except grpc.aio.AioRpcError as error:
            raise from_call_error(error) from error

    @staticmethod
    async def _stream(call: Any) -> AsyncIterator[Any]:
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise from_call_error(error) from error
        finally:
            call.cancel()


class _Channel:
    """A grpc.aio.Channel whose calls are `_Call`s."""

    def __init__(self, connection: _Connection, ids: Ids) -> None:
        self._connection = connection
        self._ids = ids

    def unary_unary(self, *args: Any, **kwargs: Any) -> _Call:
        return self._call(lambda channel: channel.unary_unary(*args, **kwargs), streams=False)

    def stream_unary(self, *args: Any, **kwargs: Any) -> _Call:
        return self._call(lambda channel: channel.stream_unary(*args, **kwargs), streams=False)

    def unary_stream(self, *args: Any, **kwargs: Any) -> _Call:
        return self._call(lambda channel: channel.unary_stream(*args, **kwargs), streams=True)

    def stream_stream(self, *args: Any, **kwargs: Any) -> _Call:
        return self._call(lambda channel: channel.stream_stream(*args, **kwargs), streams=True)

    def _call(self, method: Callable[[grpc.aio.Channel], Any], *, streams: bool) -> _Call:
        return _Call(method, self._connection, self._ids, streams=streams)


def no_ids() -> Sequence[tuple[str, str]]:
    """Nothing that follows a call."""
    return ()


def keepalive(every_s: float) -> list[tuple[str, int]]:
    """The options of a side that asks its peer whether it is there, and gives it as long to answer."""
    names = ("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms")
    return [(name, int(every_s * 1000)) for name in names]


def in_clear() -> None:
    """The credentials of a connection that has none."""


def believing(authority: str) -> Credentials:
    """Those of who shows no certificate and believes this authority's (PEM); empty: in clear."""
    if not authority:
        return in_clear
    known = grpc.ssl_channel_credentials(authority.encode())
    return lambda: known


@asynccontextmanager
async def channel(
    address: str, *, ids: Ids = no_ids, keepalive_s: float = KEEPALIVE_S, credentials: Credentials = in_clear
) -> AsyncIterator[grpc.aio.Channel]:
    """A connection for stubs. Calls take 10 s at most unless `timeout=` says otherwise (None: no limit, for streams).

    `ids` gives the metadata that goes with each call, `credentials` what is shown over TCP; a Unix socket needs none.
    """
    options = [*_CLIENT_OPTIONS, *keepalive(keepalive_s)]

    def open_with(shown: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
        if shown is None:
            return grpc.aio.insecure_channel(address, options=options)
        return grpc.aio.secure_channel(address, shown, options=options)

    connection = _Connection(open_with, in_clear if address.startswith("unix:") else credentials)
    try:
        yield cast(grpc.aio.Channel, _Channel(connection, ids))
    finally:
        await connection.close()
