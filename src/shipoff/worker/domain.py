"""Hooks, deliveries, and what a delivery carries."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from datetime import UTC, datetime

EVENT_NAME = "deployment.state_changed"


@dataclass(frozen=True)
class Hook:
    """An address that is told of a project's transitions."""

    id: str
    project_id: str
    url: str
    created_at: datetime
    # How the last try went; empty: none yet.
    last_result: str = ""


@dataclass(frozen=True)
class NewHook:
    """A hook as it is stored first; the secret is sealed."""

    id: str
    project_id: str
    team_id: str
    url: str
    sealed_secret: bytes


@dataclass(frozen=True)
class Transition:
    """A deployment went from one state to another."""

    event_id: str
    deployment_id: str
    project_id: str
    project_name: str
    environment: str
    number: int
    from_state: str
    to_state: str
    reason: str
    # Grows with every transition of the deployment: deliveries may arrive out of order.
    version: int
    time: datetime
    hosts: tuple[str, ...]
    commit: str


@dataclass(frozen=True)
class Claim:
    """A delivery to be tried now, and the lease on its hook."""

    delivery_id: str
    hook_id: str
    url: str
    sealed_secret: bytes
    body: bytes
    # This try included.
    tries: int
    # The fencing token: a result counts only while the hook's lease is this one.
    leased_until: datetime


@dataclass(frozen=True)
class Outcome:
    """How a try went: an HTTP status, or why there was none."""

    status: int | None = None
    error: str = ""

    @property
    def text(self) -> str:
        """The status, or the reason."""
        return str(self.status) if self.status is not None else self.error


@dataclass(frozen=True)
class Removal:
    """An object that nothing needs any more."""

    object_key: str
    # When its last release was given up; bytes that were stored since then are somebody's.
    expired_at: datetime
    tries: int


def payload(transition: Transition, delivery_id: str) -> bytes:
    """The body of a delivery: the same bytes at every try, for the signature is over them."""
    content = {
        "id": delivery_id,
        "type": EVENT_NAME,
        "time": transition.time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "project": {"id": transition.project_id, "name": transition.project_name},
        "deployment": {
            "id": transition.deployment_id,
            "number": transition.number,
            "environment": transition.environment,
            "from": transition.from_state or None,
            "state": transition.to_state,
            "reason": transition.reason,
            "version": transition.version,
            "hosts": list(transition.hosts),
            "commit": transition.commit or None,
        },
    }
    return json.dumps(content, separators=(",", ":")).encode()


def signature(secret: bytes, body: bytes) -> str:
    """The Shipoff-Signature header: HMAC-SHA256 (RFC 2104) over the body as it is sent."""
    return f"sha256={hmac.new(secret, body, hashlib.sha256).hexdigest()}"
