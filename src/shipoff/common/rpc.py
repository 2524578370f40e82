"""gRPC between the services: deadlines, ids, validation and errors, the same on every call.

Servers: `async with serving(address, [(add_…_to_server, servicer)]):`. Clients: `async with channel(address) as ch:`, then the
generated stub. What a servicer raises (shipoff.common.errors) is what the caller's stub raises.
"""

from __future__ import annotations

import inspect
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import protovalidate
import structlog
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from pydantic_settings import BaseSettings, SettingsConfigDict

from shipoff.common import calls, errors, tls
from shipoff.common.callgraph import FOR_BUILDERS
from shipoff.common.calls import KEEPALIVE_S
from shipoff.common.config import load
from shipoff.common.errors import ShipoffError, TemporaryError
from shipoff.common.telemetry import Context, current, take_on

GRACE_S = 5.0
_DOMAIN = "shipoff"

log = structlog.get_logger()


@dataclass(frozen=True)
class Bounds:
    """How long a connection may last, and with it a stream that has no deadline."""

    # A peer that does not answer a ping for so long is gone; asked as often.
    keepalive_s: float = KEEPALIVE_S
    # One without a call; the peer connects again when it has one.
    idle_s: float = 600.0
    # However alive: then what streams is ended within the grace, and goes on over a new one where it stopped.
    age_s: float = 3600.0
    age_grace_s: float = 60.0

    def options(self) -> list[tuple[str, int]]:
        """As gRPC's server takes them."""
        return [
            *calls.keepalive(self.keepalive_s),
            ("grpc.max_connection_idle_ms", int(self.idle_s * 1000)),
            ("grpc.max_connection_age_ms", int(self.age_s * 1000)),
            ("grpc.max_connection_age_grace_ms", int(self.age_grace_s * 1000)),
            # Callers ask every KEEPALIVE_S; twice as often is no abuse.
            ("grpc.http2.min_recv_ping_interval_without_data_ms", int(self.keepalive_s * 500)),
        ]


def to_status(error: ShipoffError) -> status_pb2.Status:
    """The gRPC status of an error, with field and remedy (ErrorInfo) and the wait (RetryInfo) as details."""
    code = next((c for kind, c in calls.CODES.items() if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
    status = status_pb2.Status(code=code.value[0], message=error.message)
    info = error_details_pb2.ErrorInfo(reason=type(error).__name__, domain=_DOMAIN)
    info.metadata.update({"field": error.field, "remedy": error.remedy})
    status.details.add().Pack(info)
    if isinstance(error, TemporaryError):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(int(error.retry_after_s * 1000))
        status.details.add().Pack(retry)
    return status


def check(request: Message) -> None:
    """Raises InvalidInput for the first rule of the contract that the message breaks, naming the field."""
    violations = protovalidate.collect_violations(request, fail_fast=True)
    if not violations:
        return
    proto = violations[0].proto
    field = ".".join(element.field_name for element in (proto.field.elements if proto.field else []))
    raise errors.InvalidInput(f"{field or 'the request'}: {proto.message}", field=field)


def _context_of(metadata: Mapping[str, Any]) -> Context:
    return Context(
        request_id=str(metadata.get("shipoff-request-id", "")),
        tenant_id=str(metadata.get("shipoff-tenant-id", "")),
        traceparent=str(metadata.get("traceparent", "")),
    )


def _metadata() -> list[tuple[str, str]]:
    context = current()
    pairs = [
        ("shipoff-request-id", context.request_id),
        ("shipoff-tenant-id", context.tenant_id),
        ("traceparent", context.traceparent),
    ]
    return [(name, value) for name, value in pairs if value]


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: Exception, method: str) -> None:
    if not isinstance(error, ShipoffError):
        log.exception("call failed", method=method, error=str(error))
        error = errors.Internal("an internal error: the platform's log has it", remedy="report it with the request's id")
    status = to_status(error)
    # What abort_with_status does, in the public parts of the asynchronous API.
    context.set_trailing_metadata([("grpc-status-details-bin", status.SerializeToString())])
    await context.abort(_code_of(status.code), status.message)


def _code_of(number: int) -> grpc.StatusCode:
    return next(code for code in grpc.StatusCode if code.value[0] == number)


async def _checked(requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
    """What a caller streams. One that leaves in mid-stream ends it without a sign: what has to be whole carries a digest."""
    async for request in requests:
        check(request)
        yield request


class _Boundary(grpc.aio.ServerInterceptor):
    """Around every method: sets the ids, validates, maps errors, and where callers show certificates asks who it is."""

    def __init__(self, *, certified: bool) -> None:
        self._certified = certified

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith("/shipoff."):
            return handler
        context = _context_of(dict(handler_call_details.invocation_metadata or ()))
        return _wrapped(handler, method, context, certified=self._certified)


def _wrapped(handler: Any, method: str, ids: Context, *, certified: bool) -> Any:
    inner = handler.unary_unary or handler.stream_unary or handler.unary_stream or handler.stream_stream

    def prepared(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        if certified:
            tls.require_caller(method, context.auth_context())
        if handler.request_streaming:
            return _checked(request)
        check(request)
        return request

    async def unary(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        take_on(ids)
        try:
            return await inner(prepared(request, context), context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await _abort(context, error, method)

    async def streaming(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        take_on(ids)
        try:
            async for response in inner(prepared(request, context), context):
                yield response
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await _abort(context, error, method)

    kinds: dict[tuple[bool, bool], Callable[..., Any]] = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    make = kinds[handler.request_streaming, handler.response_streaming]
    behaviour = streaming if handler.response_streaming else unary
    return make(behaviour, handler.request_deserializer, handler.response_serializer)


Registration = tuple[Callable[[Any, Any], None], object]


class _Probes(BaseSettings):
    """SHIPOFF_PROBE_LISTEN."""

    model_config = SettingsConfigDict(env_prefix="SHIPOFF_", frozen=True, extra="ignore")

    # host:port where health alone is served, in clear: who probes (a kubelet) has no certificate. Empty: nowhere.
    probe_listen: str = ""


@asynccontextmanager
async def serving(
    address: str, registrations: Iterable[Registration], *, bounds: Bounds | None = None
) -> AsyncIterator[grpc.aio.Server]:
    """Serves at `unix:/path` or `host:port`, with health and reflection; on leaving finishes what is under way (5 s).

    Over TCP it shows a certificate where the settings name one, and callers have to (common/tls.py), builders excepted.
    """
    added = [(add, servicer, _service_name(add)) for add, servicer in registrations]
    names = [name for _, _, name in added]
    for_builders = set(names) <= FOR_BUILDERS
    certificates = None if address.startswith("unix:") else tls.settled()
    certified = certificates is not None and not for_builders
    options = [*calls.OPTIONS, ("grpc.so_reuseport", 0), *(bounds or Bounds()).options()]
    server = grpc.aio.server(interceptors=[_Boundary(certified=certified)], options=options)
    for add, servicer, _ in added:
        add(servicer, server)
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    _listen(server, address, certificates.for_server(asking=certified) if certificates else None)
    await server.start()
    for name in ["", *names]:
        await status.set(name, health_pb2.HealthCheckResponse.SERVING)
    try:
        async with _probed("" if for_builders else load(_Probes).probe_listen, status):
            yield server
    finally:
        await status.enter_graceful_shutdown()
        await server.stop(GRACE_S)


@asynccontextmanager
async def _probed(address: str, status: health.aio.HealthServicer) -> AsyncIterator[None]:
    """Serves health for who probes, beside the block."""
    if not address:
        yield
        return
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    _listen(server, address, None)
    await server.start()
    try:
        yield
    finally:
        await status.enter_graceful_shutdown()
        await server.stop(0)


def _listen(server: grpc.aio.Server, address: str, shown: grpc.ServerCredentials | None) -> None:
    if address.startswith("unix:"):
        path = Path(address.removeprefix("unix:"))
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
        _require_silence(path)
    try:
        if shown is None:
            server.add_insecure_port(address)
        else:
            server.add_secure_port(address, shown)
    except RuntimeError as error:
        remedy = "is another one running? Unix socket paths are limited to about 100 characters"
        raise errors.PreconditionFailed(f"cannot listen at {address}", remedy=remedy) from error


def _require_silence(path: Path) -> None:
    """Raises PreconditionFailed where somebody answers: gRPC would take the socket's place away from under who serves."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return  # none is there, or one that was left behind; a path that cannot be used is told by listening
    message = f"cannot listen at unix:{path}: this service runs there already"
    raise errors.PreconditionFailed(message, remedy="stop that one first")


def _service_name(add: Callable[[Any, Any], None]) -> str:
    """The full name of the service that a generated add_…_to_server registers: its module names the package."""
    pb2 = inspect.getmodule(add).__name__.removesuffix("_grpc")  # type: ignore[union-attr]  # generated modules exist
    name = add.__name__.removeprefix("add_").removesuffix("Servicer_to_server")
    module = inspect.sys.modules[pb2]  # type: ignore[attr-defined]  # loaded by the stub module itself
    return str(module.DESCRIPTOR.services_by_name[name].full_name)


@asynccontextmanager
async def channel(address: str, *, keepalive_s: float = KEEPALIVE_S) -> AsyncIterator[grpc.aio.Channel]:
    """A connection for stubs, with the ids of whoever calls. Calls take 10 s at most unless `timeout=` says otherwise."""
    certificates = None if address.startswith("unix:") else tls.settled()
    credentials = certificates.for_channels if certificates else calls.in_clear
    async with calls.channel(address, ids=_metadata, keepalive_s=keepalive_s, credentials=credentials) as opened:
        yield opened
