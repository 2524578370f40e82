"""A deployment's log and states as they happen: over a WebSocket, and by asking again while that does not work."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from websockets.exceptions import WebSocketException

from shipoff.cli.client import Api, Json
from shipoff.cli.errors import Unreachable
from shipoff.cli.sockets import opened

RESTING = frozenset(["production", "failed", "inactive"])
ENDED = frozenset(["failed", "inactive"])
_PAUSES_S = (0.2, 0.5, 1.0, 2.0)
_AWAY_S = 60.0
_PAGE = 1000


@dataclass(frozen=True)
class Wanted:
    """Which part of a deployment's log to follow."""

    deployment_id: str
    # build, app or platform; None: all.
    source: str | None = None
    # Only entries after this position.
    after: int = 0
    # Also production is an end.
    until_rest: bool = False

    def is_end(self, state: str) -> bool:
        """Whether a deployment in this state says nothing more."""
        return state in (RESTING if self.until_rest else ENDED)


def follow(api: Api, wanted: Wanted, *, pause: Callable[[float], None] = time.sleep) -> Iterator[Json]:
    """The messages of the log WebSocket: {"type": "lines" | "gap" | "state" | "end", …}; each line once, in order.

    A connection that breaks is made again from the last position. Raises Failure when the deployment is not there for this
    token, Unreachable when the platform is away for a minute.
    """
    cursor = _Cursor(wanted.after)
    failures = 0
    last_contact = time.monotonic()
    while True:
        try:
            for message in cursor.new(_over_socket(api, wanted, cursor.position)):
                last_contact = time.monotonic()
                if message["type"] == "lines":
                    failures = 0
                yield message
                if message["type"] == "end":
                    return
        except (WebSocketException, OSError, ValueError):
            pass  # asking tells whether anything is wrong but the connection
        try:
            for message in cursor.new(_by_asking(api, wanted, cursor.position)):
                yield message
                if message["type"] == "end":
                    return
            last_contact = time.monotonic()
        except Unreachable:
            if time.monotonic() - last_contact > _AWAY_S:
                raise
        pause(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)])
        failures += 1


class _Cursor:
    """How far the reader is."""

    def __init__(self, position: int) -> None:
        self.position = position

    def new(self, messages: Iterator[Json]) -> Iterator[Json]:
        """The messages without the lines that were given before."""
        for message in messages:
            if message.get("type") == "lines":
                entries = [entry for entry in message["entries"] if int(entry["position"]) > self.position]
                if not entries:
                    continue
                yield {**message, "entries": entries}
                self.position = int(entries[-1]["position"])
            elif message.get("type") in ("gap", "state", "end"):
                yield message


def _over_socket(api: Api, wanted: Wanted, after: int) -> Iterator[Json]:
    parameters: dict[str, Any] = {"after": after}
    if wanted.source:
        parameters["source"] = wanted.source
    if wanted.until_rest:
        parameters["until"] = "rest"
    socket = opened(api, f"/v1/deployments/{wanted.deployment_id}/logs?{urlencode(parameters)}")
    with socket:
        for text in socket:
            message = json.loads(text)
            if isinstance(message, dict):
                yield message


def _by_asking(api: Api, wanted: Wanted, after: int) -> Iterator[Json]:
    # The state first: whatever was logged before an end is in the answer that follows.
    deployment = api.get(f"/v1/deployments/{wanted.deployment_id}")
    more = True
    while more:
        page = api.get(f"/v1/deployments/{wanted.deployment_id}/logs", source=wanted.source, after=after, limit=_PAGE)
        if page["items"]:
            yield {"type": "lines", "entries": page["items"]}
            after = int(page["items"][-1]["position"])
        more = bool(page["more"] and page["items"])
    yield {"type": "state", "deployment": deployment}
    if wanted.is_end(deployment["state"]):
        yield {"type": "end"}
