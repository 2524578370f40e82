"""GitHub's webhook deliveries: the signature, and what a push says. Pure.

https://docs.github.com/en/webhooks/webhook-events-and-payloads#push
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from shipoff.common.errors import InvalidInput, Unauthenticated
from shipoff.project.repositories import check_ref, is_commit, repository_key

_PREFIX = "sha256="
_MOST_MESSAGE = 4096
_MOST_LOGIN = 100
_BRANCHES = "refs/heads/"


@dataclass(frozen=True)
class Push:
    """A push to a branch. `branch` empty: it was to a tag. `commit` empty: the branch was deleted."""

    repository_key: str
    branch: str
    default_branch: str
    commit: str
    before: str
    pushed_at: datetime
    message: str
    login: str


def verify(secret: str, body: bytes, signature: str) -> None:
    """Raises Unauthenticated unless the signature is HMAC-SHA256 of these very bytes under the secret, in constant time.

    Without a secret nothing is right: an empty key would let anybody sign.
    """
    expected = _PREFIX + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    same = hmac.compare_digest(expected.encode(), signature.encode())
    if not secret or not same:
        raise Unauthenticated(
            "the delivery's signature is wrong",
            remedy="set the same secret at GitHub and as SHIPOFF_GITHUB_WEBHOOK_SECRET; X-Hub-Signature-256 is required",
        )


def parse(body: bytes) -> dict[str, Any]:
    """The payload. Raises InvalidInput for whatever is no JSON object, however deep it is nested."""
    if body.startswith(b"payload="):
        raise InvalidInput("the body is a form", field="body", remedy="set the webhook's content type to application/json")
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("the body is not JSON", field="body") from error
    if not isinstance(payload, dict):
        raise InvalidInput("the body is not a JSON object", field="body")
    return payload


def push_of(payload: dict[str, Any]) -> Push:
    """The push that a payload describes. Raises InvalidInput naming the field that is missing or wrong."""
    ref = _text(payload, "ref")
    repository = _object(payload, "repository")
    deleted = payload.get("deleted") is True
    commit = _commit(payload, "after")
    return Push(
        repository_key=_key(repository),
        branch=check_ref(ref.removeprefix(_BRANCHES), field="ref") if ref.startswith(_BRANCHES) else "",
        default_branch=_text(repository, "default_branch"),
        commit="" if deleted or not commit.strip("0") else commit,
        before=_commit(payload, "before"),
        pushed_at=_pushed_at(payload, repository, deleted=deleted),
        message=_clean(_optional(payload.get("head_commit"), "message"), _MOST_MESSAGE),
        login=_clean(_optional(payload.get("sender"), "login") or _optional(payload.get("pusher"), "name"), _MOST_LOGIN),
    )


def why_not(push: Push, wanted_branch: str) -> str:
    """Why a project that wants this branch (empty: the default one) does not deploy the push; empty where it does."""
    if not push.branch:
        return "the push is to a tag"
    if not push.commit:
        return f"the branch {push.branch} was deleted"
    wanted = wanted_branch or push.default_branch
    return "" if push.branch == wanted else f"the push is to {push.branch}, and {wanted} is followed"


@dataclass(frozen=True)
class Position:
    """The newest push of a branch that was seen."""

    pushed_at: datetime
    commit: str
    before: str


def why_stale(push: Push, seen: Position | None) -> str:
    """Why a push brings nothing new after what was seen of its branch; empty where it does.

    GitHub tells the time of a push in seconds: within one second the commits' order decides.
    """
    if seen is None or push.pushed_at > seen.pushed_at:
        return ""
    if push.commit == seen.commit and push.pushed_at == seen.pushed_at:
        return "this push was deployed already"
    if push.pushed_at < seen.pushed_at or push.commit == seen.before:
        return "a newer push to this branch came before it"
    return ""


def _key(repository: dict[str, Any]) -> str:
    url = repository.get("clone_url") or repository.get("html_url")
    if not isinstance(url, str):
        raise InvalidInput("repository.clone_url is missing", field="repository.clone_url")
    return repository_key(url)


def _pushed_at(payload: dict[str, Any], repository: dict[str, Any], *, deleted: bool) -> datetime:
    """When it was pushed; from payloads without it, the time of the newest commit."""
    value = repository.get("pushed_at")
    if value is None:
        value = _optional(payload.get("head_commit"), "timestamp") or (0 if deleted else None)
    try:
        if isinstance(value, int) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidInput("repository.pushed_at is no time", field="repository.pushed_at") from error
    raise InvalidInput("repository.pushed_at is missing", field="repository.pushed_at")


def _object(payload: dict[str, Any], name: str) -> dict[str, Any]:
    value = payload.get(name)
    if not isinstance(value, dict):
        raise InvalidInput(f"{name} is missing", field=name)
    return value


def _text(payload: dict[str, Any], name: str) -> str:
    value = payload.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"{name} is missing", field=name)
    return value


def _commit(payload: dict[str, Any], name: str) -> str:
    value = _text(payload, name)
    if not is_commit(value):
        raise InvalidInput(f"{name} is not a commit id", field=name)
    return value


def _optional(value: object, name: str) -> str:
    inner = value.get(name) if isinstance(value, dict) else None
    return inner if isinstance(inner, str) else ""


def _clean(text: str, most: int) -> str:
    """Text that every store takes: no NUL, no lone surrogates (JSON can escape both)."""
    return text[:most].replace("\0", "").encode("utf-8", "replace").decode()
