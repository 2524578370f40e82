"""Errors as problem documents (RFC 9457). The only place that knows which error is which HTTP status."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket

from shipoff.common import errors
from shipoff.common.errors import ShipoffError, TemporaryError
from shipoff.common.telemetry import current
from shipoff.gateway.models.common import FORMS

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
_LONGEST_DETAIL = 2000


class Problem(BaseModel):
    """What went wrong, for a person and for a program (RFC 9457)."""

    type: str = Field(description="Names the kind of problem; stable.", examples=["urn:shipoff:not-found"])
    title: str
    status: int
    detail: str
    field: str | None = Field(default=None, description="The part of the request that was wrong.")
    remedy: str | None = Field(default=None, description="What to do about it.")
    request_id: str


class Refused(ShipoffError):
    """What HTTP itself has a status for and the services have not: sizes, rates, media types."""

    def __init__(
        self, status: HTTPStatus, message: str, *, field: str = "", remedy: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, field=field, remedy=remedy)
        self.status = status
        self.retry_after_s = retry_after_s


_STATUSES: dict[type[ShipoffError], HTTPStatus] = {
    errors.InvalidInput: HTTPStatus.BAD_REQUEST,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.AlreadyExists: HTTPStatus.CONFLICT,
    errors.PreconditionFailed: HTTPStatus.CONFLICT,
    errors.Unauthenticated: HTTPStatus.UNAUTHORIZED,
    errors.PermissionDenied: HTTPStatus.FORBIDDEN,
    errors.Aborted: HTTPStatus.CONFLICT,
    errors.DataLoss: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.Exhausted: HTTPStatus.TOO_MANY_REQUESTS,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.DeadlineExceeded: HTTPStatus.GATEWAY_TIMEOUT,
    errors.Internal: HTTPStatus.INTERNAL_SERVER_ERROR,
}
_OURS = "something went wrong on the platform's side"
_REPORT = "try again; if it stays, report it with the request's id"


def status_of(error: ShipoffError) -> HTTPStatus:
    """The HTTP status of an error; 500 for one that has none."""
    if isinstance(error, Refused):
        return error.status
    return next((s for kind, s in _STATUSES.items() if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)


def _kind(error: ShipoffError, status: HTTPStatus) -> str:
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(error).__name__) if not isinstance(error, Refused) else status.phrase
    return f"urn:shipoff:{name.lower().replace(' ', '-')}"


def problem_of(error: ShipoffError) -> Problem:
    """The document. An error that is no fault of the caller's tells nothing of the platform's inside.

    But for what is away and comes with a remedy: a full disk, say, which a person can help.
    """
    status = status_of(error)
    away = status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)
    hidden = status >= HTTPStatus.INTERNAL_SERVER_ERROR and not (away and error.remedy)
    detail = ("a part of the platform does not answer" if away else _OURS) if hidden else error.message
    return Problem(
        type=_kind(error, status),
        title=status.phrase,
        status=status,
        detail=detail[:_LONGEST_DETAIL],
        field=error.field or None,
        remedy=(_REPORT if hidden else error.remedy) or None,
        request_id=current().request_id,
    )


def response_of(error: ShipoffError) -> Response:
    """The answer to send for an error, with Retry-After and WWW-Authenticate where they belong."""
    problem = problem_of(error)
    if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("request failed", status=problem.status, kind=type(error).__name__, error=error.message)
    headers: dict[str, str] = {}
    wait_s = error.retry_after_s if isinstance(error, (TemporaryError, Refused)) else None
    if wait_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(wait_s)))
    if problem.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    content = problem.model_dump(exclude_none=True)
    return JSONResponse(content, status_code=problem.status, headers=headers, media_type=MEDIA_TYPE)


def invalid(violations: Sequence[Any]) -> errors.InvalidInput:
    """The first thing that was wrong with a request, in FastAPI's words, without the value: it may be a secret."""
    first = violations[0]
    path = [str(part) for part in first["loc"]]
    field = ".".join(path[1:]) if len(path) > 1 else ""
    if first["type"] == "json_invalid":
        return errors.InvalidInput("the body is not valid JSON", field="body")
    if first["type"] == "extra_forbidden":
        return errors.InvalidInput(f"{field}: unknown field", field=field)
    form = FORMS.get(first.get("ctx", {}).get("pattern", ""))
    if form is not None:
        return errors.InvalidInput(f"{field} is not in the form it has to have", field=field, remedy=f"write {form}")
    return errors.InvalidInput(f"{field or path[0]}: {first['msg']}", field=field)


async def _answer(connection: HTTPConnection, error: ShipoffError) -> Response | None:
    response = response_of(error)
    if not isinstance(connection, WebSocket):
        return response
    await connection.send_denial_response(response)
    return None


async def _on_shipoff_error(connection: HTTPConnection, error: Exception) -> Response | None:
    assert isinstance(error, ShipoffError)
    return await _answer(connection, error)


async def _on_invalid(connection: HTTPConnection, error: Exception) -> Response | None:
    assert isinstance(error, (RequestValidationError, WebSocketRequestValidationError))
    return await _answer(connection, invalid(error.errors()))


async def _on_http_exception(connection: HTTPConnection, error: Exception) -> Response | None:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    texts = {HTTPStatus.NOT_FOUND: "there is no such page", HTTPStatus.METHOD_NOT_ALLOWED: "not with this method"}
    response = await _answer(connection, Refused(status, texts.get(status, str(error.detail))))
    if response is not None:
        response.headers.update(error.headers or {})
    return response


async def _on_disconnect(connection: HTTPConnection, error: Exception) -> Response | None:
    return await _answer(connection, Refused(HTTPStatus.BAD_REQUEST, "the request ended before its body did"))


def answer_errors_with_problems(app: FastAPI) -> None:
    """Registers the handlers. What none of them knows is the edge's (edge.py)."""
    # Starlette's types know handlers of requests or of WebSockets, not of both.
    handlers: dict[type[Exception], Any] = {
        ShipoffError: _on_shipoff_error,
        RequestValidationError: _on_invalid,
        WebSocketRequestValidationError: _on_invalid,
        HTTPException: _on_http_exception,
        ClientDisconnect: _on_disconnect,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
