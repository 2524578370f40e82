"""When a route may change, and what a host may be."""

from __future__ import annotations

import pytest

from shipoff.cdn.domain import Endpoint, Route, Standing, StaticTarget, checked_endpoint, checked_hosts
from shipoff.cdn.transitions import Verdict, decide_remove, decide_set
from shipoff.common.errors import InvalidInput


def route(deployment: str = "d", fence: int = 5) -> Route:
    return Route("p", "production", deployment, ("a.localhost",), StaticTarget(spa=False), fence)


@pytest.mark.parametrize(
    ("standing", "wanted", "verdict"),
    [
        (None, route(), Verdict.STORE),
        (Standing(4, route("old", 4)), route(), Verdict.STORE),
        (Standing(4, None), route(), Verdict.STORE),
        (Standing(5, route()), route(), Verdict.KEEP),
        (Standing(5, route("other")), route(), Verdict.STALE),
        (Standing(5, None), route(), Verdict.STALE),
        (Standing(6, route("new", 6)), route(), Verdict.STALE),
        (Standing(6, None), route(), Verdict.STALE),
    ],
)
def test_the_highest_fence_wins(standing: Standing | None, wanted: Route, verdict: Verdict) -> None:
    assert decide_set(standing, wanted) is verdict


@pytest.mark.parametrize(
    ("standing", "removes"),
    [(None, False), (Standing(5, None), False), (Standing(5, route("other")), False), (Standing(5, route("d")), True)],
)
def test_only_the_deployment_it_points_at_removes_a_route(standing: Standing | None, removes: bool) -> None:
    assert decide_remove(standing, "d") is removes


NO_HOSTS = ["", "A.localhost", "*.localhost", "-a.b", "a-.b", "a..b", "a.b.", "a b", "a:80", "{x}", "1.2.3.4", "::1", "ä.de"]


@pytest.mark.parametrize("host", [*NO_HOSTS, "x" * 64, "a." * 127])
def test_what_is_no_host_name_is_refused(host: str) -> None:
    with pytest.raises(InvalidInput):
        checked_hosts([host], reserved=frozenset())


def test_hosts_are_sorted_single_and_not_the_platform_s() -> None:
    assert checked_hosts(["b.x", "a.x", "b.x"], reserved=frozenset()) == ("a.x", "b.x")
    with pytest.raises(InvalidInput):
        checked_hosts(["api.localhost"], reserved=frozenset({"api.localhost"}))


@pytest.mark.parametrize("host", ["unix//tmp/x", "", "{env.HOME}", "a/b", "a@b"])
def test_an_endpoint_is_an_address_or_a_name(host: str) -> None:
    with pytest.raises(InvalidInput):
        checked_endpoint(Endpoint(host, 80))
    assert checked_endpoint(Endpoint("10.0.0.1", 80)) == Endpoint("10.0.0.1", 80)
