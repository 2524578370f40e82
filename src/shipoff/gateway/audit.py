"""Writes down what a caller changed."""

from __future__ import annotations

import structlog

from shipoff.common.errors import ShipoffError, TemporaryError
from shipoff.common.ids import new_id
from shipoff.contracts.identity.v1 import identity_pb2
from shipoff.gateway.access import Access
from shipoff.gateway.context import Gateway

log = structlog.get_logger()

_ATTEMPTS = 3
_TIMEOUT_S = 2.0


async def record(reach: Access, action: str, *, team_id: str, object_id: str, detail: str = "") -> None:
    """Appends what the caller did to the team's audit log."""
    entry = identity_pb2.AuditEntry(
        id=new_id(), team_id=team_id, actor=reach.principal.user_id, action=action, object_id=object_id, detail=detail
    )
    await append(reach.gateway, entry)


async def append(gateway: Gateway, entry: identity_pb2.AuditEntry) -> None:
    """Appends an entry.

    The change has happened by then: when identity stays away the entry goes to the platform's log instead, and the
    caller's answer is still that of the change.
    """
    request = identity_pb2.RecordAuditRequest(entry=entry)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            await gateway.clients.identity.RecordAudit(request, timeout=_TIMEOUT_S)
            return
        except ShipoffError as error:
            if attempt < _ATTEMPTS and isinstance(error, TemporaryError):
                continue
            fields = {name: getattr(entry, name) for name in ("team_id", "actor", "action", "object_id", "detail")}
            log.error("audit entry not stored", error=str(error), **fields)
            return
