"""When a route may change."""

from __future__ import annotations

from enum import Enum, auto

from shipoff.cdn.domain import Route, Standing


class Verdict(Enum):
    """What becomes of a wish to set a route."""

    STORE = auto()
    # It stands already.
    KEEP = auto()
    # A newer switch has happened.
    STALE = auto()


def decide_set(standing: Standing | None, wanted: Route) -> Verdict:
    """A higher fence wins; the same one is a repetition only if it says the same."""
    if standing is None or wanted.fence > standing.fence:
        return Verdict.STORE
    return Verdict.KEEP if standing.route == wanted else Verdict.STALE


def decide_remove(standing: Standing | None, deployment_id: str) -> bool:
    """Whether to take the route off the edge: only while it points at this deployment."""
    return standing is not None and standing.route is not None and standing.route.deployment_id == deployment_id
