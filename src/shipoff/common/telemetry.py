"""Structured logs and the ids that follow a request from service to service."""

from __future__ import annotations

import logging
import re
import secrets
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

import structlog

_TRACEPARENT = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True)
class Context:
    """Whose work this is: the request's id, the team's, and the W3C trace context."""

    request_id: str = ""
    tenant_id: str = ""
    traceparent: str = ""
    # The trace contexts of the pieces of work that are done here in one go, by a trace of its own (OpenTelemetry: span links).
    links: tuple[str, ...] = ()


NO_CONTEXT = Context()
_current: ContextVar[Context] = ContextVar("shipoff_context", default=NO_CONTEXT)


def current() -> Context:
    """The ids of what is being done here and now."""
    return _current.get()


@contextmanager
def working_on(context: Context) -> Iterator[Context]:
    """Sets the ids for a block; an absent trace context is begun."""
    if not valid_traceparent(context.traceparent):
        context = replace(context, traceparent=new_traceparent())
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)


def take_on(context: Context) -> None:
    """Sets the ids for the rest of this task: for what has one of its own, as a server's method does."""
    _current.set(context if valid_traceparent(context.traceparent) else replace(context, traceparent=new_traceparent()))


def new_traceparent() -> str:
    """A new, sampled trace context (W3C Trace Context, section 3.2)."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def valid_traceparent(text: str) -> bool:
    """Whether this is a version-00 traceparent header."""
    return _TRACEPARENT.fullmatch(text) is not None


def trace_id(traceparent: str) -> str:
    """Its second field."""
    return traceparent.split("-")[1]


def together(contexts: Iterable[Context]) -> Context:
    """The ids for work on several things in one go: those that they share, and a link to each one's trace.

    For a single thing: its own.
    """
    each = list(contexts)
    if len(each) == 1:
        return each[0]
    return Context(
        request_id=_shared(context.request_id for context in each),
        tenant_id=_shared(context.tenant_id for context in each),
        links=tuple(dict.fromkeys(context.traceparent for context in each if valid_traceparent(context.traceparent))),
    )


def _shared(values: Iterable[str]) -> str:
    """What all of them are; empty when they differ."""
    different = set(values)
    return different.pop() if len(different) == 1 else ""


def _add_ids(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    context = current()
    for name in ("request_id", "tenant_id"):
        value = getattr(context, name)
        if value:
            event.setdefault(name, value)
    if context.traceparent:
        event.setdefault("trace_id", trace_id(context.traceparent))
    if context.links:
        event.setdefault("linked_trace_ids", [trace_id(link) for link in context.links])
    return event


def configure_logging(level: str = "INFO") -> None:
    """Sends every log event to standard error as one JSON object a line."""
    logging.basicConfig(
        level=logging.WARNING,
        stream=sys.stderr,
        format='{"level":"%(levelname)s","logger":"%(name)s","event":"%(message)s"}',
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _add_ids,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
