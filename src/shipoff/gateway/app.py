"""The application: its routes, its errors, its OpenAPI document."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from shipoff.gateway.context import Gateway
from shipoff.gateway.edge import Edge, Network
from shipoff.gateway.problems import MEDIA_TYPE, Problem, answer_errors_with_problems
from shipoff.gateway.routes import (
    accounts,
    commands,
    deployments,
    events,
    plans,
    platform,
    projects,
    running,
    sources,
    stream,
    webhooks,
)

_DESCRIPTION = (
    "Every answer carries `X-Request-Id`. Errors are problem documents (RFC 9457). Lists are read in pages: send "
    "`next_cursor` as `cursor`. Unknown fields in a body are refused. Tokens belong into the Authorization header only."
)


def create_app(gateway: Gateway, *, proxies: Sequence[Network] = ()) -> FastAPI:
    """The application over these services, behind proxies of these networks; serve it with shipoff.gateway.web."""
    app = FastAPI(
        title="Shipoff",
        version=version("shipoff"),
        description=_DESCRIPTION,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.gateway = gateway
    app.include_router(platform.unlimited)
    for module in (platform, accounts, projects, sources, plans, deployments, running, commands, events, stream, webhooks):
        app.include_router(module.router)
    answer_errors_with_problems(app)
    app.add_middleware(Edge, trusted=proxies)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]  # FastAPI's own way to extend the document
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with the errors as they are: every operation may answer with a problem, none with a 422."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = Problem.model_json_schema()
    problem = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    for methods in document["paths"].values():
        for operation in methods.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = {"description": "What went wrong.", **problem}
            if "security" in operation:
                operation["responses"]["401"] = {"description": "No token, or not a valid one.", **problem}
                operation["responses"]["403"] = {"description": "The role is too low.", **problem}
    app.openapi_schema = document
    return document
