"""Uploads of source archives: they pass through in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

from fastapi import Request

from shipoff.contracts.project.v1 import project_pb2
from shipoff.gateway.access import ChangedProject, Platform
from shipoff.gateway.bodies import declared_bytes, media_type, pieces
from shipoff.gateway.models.projects import SourceOut
from shipoff.gateway.problems import Refused
from shipoff.gateway.routing import guarded

router = guarded("projects", raw=True)

_TIMEOUT_S = 3600.0
_MEDIA_TYPES = ("application/gzip", "application/x-gzip", "application/octet-stream")
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A gzip-compressed tar archive of the folder.",
        "content": {"application/gzip": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class _Upload:
    """The messages of one upload. What breaks the body off is kept: gRPC itself only tells that the call was cancelled."""

    def __init__(self, project_id: str, body: AsyncIterator[bytes]) -> None:
        self._project_id = project_id
        self._body = body
        self.failure: Exception | None = None

    async def messages(self) -> AsyncIterator[project_pb2.UploadSourceRequest]:
        yield project_pb2.UploadSourceRequest(project_id=self._project_id)
        try:
            async for chunk in self._body:
                yield project_pb2.UploadSourceRequest(chunk=chunk)
        except Exception as error:
            self.failure = error
            raise


@router.post("/v1/projects/{project}/sources", status_code=201, openapi_extra=_BODY)
async def upload_source(project: ChangedProject, request: Request, gateway: Platform) -> SourceOut:
    """Stores an archive; deployments name it by its digest."""
    if media_type(request) not in _MEDIA_TYPES:
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body has to be application/gzip", field="Content-Type")
    settings = gateway.settings
    declared_bytes(request, settings.source_limit_bytes)
    body = pieces(request, limit_bytes=settings.source_limit_bytes, timeout_s=settings.body_timeout_s)
    upload = _Upload(project.id, body)
    try:
        answer = await gateway.clients.project.UploadSource(upload.messages(), timeout=_TIMEOUT_S)
    except asyncio.CancelledError:
        if upload.failure is None:
            raise
        raise upload.failure from None
    return SourceOut(digest=answer.source.digest, size_bytes=answer.source.size_bytes)
