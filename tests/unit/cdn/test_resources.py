"""Caddy's configuration."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from shipoff.cdn import resources
from shipoff.cdn.domain import Endpoint, ProxyTarget, Route, StaticTarget
from shipoff.cdn.resources import EdgeLayout, edge_config, gateway_hosts, live_files

GOLDEN = Path(__file__).with_name("edge.golden.json")
LAYOUT = EdgeLayout(8080, "/h/admin.sock", "/h/gateway.sock", gateway_hosts("localhost"), "/h/releases", "/h/live")


def proxy(*ports: int, deployment: str = "d1", host: str = "app.localhost") -> Route:
    endpoints = tuple(Endpoint("127.0.0.1", port) for port in ports)
    return Route("p1", "production", deployment, (host,), ProxyTarget(endpoints), 1)


def static(deployment: str = "d2", *, spa: bool = False) -> Route:
    return Route("p2", "production", deployment, ("site.localhost", "www.site.localhost"), StaticTarget(spa), 1)


def test_the_configuration_is_the_golden_one() -> None:
    """UPDATE_GOLDEN=1 writes it anew; read the difference."""
    built = edge_config(LAYOUT, [static(spa=True), proxy(4001, 4002)])
    text = json.dumps(built.config, indent=1, sort_keys=True) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_a_switch_changes_files_and_no_configuration() -> None:
    before = [proxy(4001), static("old")]
    after = [proxy(4002, deployment="d3"), static("new")]
    assert edge_config(LAYOUT, before) == edge_config(LAYOUT, reversed(after))
    assert [file.value for file in live_files(LAYOUT, before)] == ["127.0.0.1:4001", "/h/releases/old"]
    assert [file.value for file in live_files(LAYOUT, after)] == ["127.0.0.1:4002", "/h/releases/new"]


def test_an_app_without_instances_waits_in_the_same_configuration() -> None:
    assert edge_config(LAYOUT, [proxy()]).marker == edge_config(LAYOUT, [proxy(4001)]).marker


def test_a_paused_app_answers_with_a_page_and_asks_nobody() -> None:
    paused = Route("p1", "production", "d1", ("app.localhost",), ProxyTarget((), paused=True), 1)
    text = json.dumps(edge_config(LAYOUT, [paused]).config)
    assert "is paused" in text
    assert '"503"' in text
    assert edge_config(LAYOUT, [paused]).marker != edge_config(LAYOUT, [proxy(4001)]).marker


@pytest.mark.parametrize("other", [[], [proxy(1, host="b.localhost")], [proxy(1, 2)], [proxy(1), static()]])
def test_hosts_instances_and_routes_change_the_marker(other: list[Route]) -> None:
    assert edge_config(LAYOUT, [proxy(1)]).marker != edge_config(LAYOUT, other).marker


def test_the_platform_s_hosts_come_first_and_an_unknown_one_last() -> None:
    routes = edge_config(LAYOUT, [proxy(1)]).config["apps"]["http"]["servers"]["edge"]["routes"]
    assert routes[0]["match"] == [{"host": ["localhost", "127.0.0.1", "api.localhost"]}]
    assert routes[-1]["handle"][0]["status_code"] == "404"


def test_addresses_of_ipv6_are_bracketed() -> None:
    route = Route("p", "e", "d", ("h",), ProxyTarget((Endpoint("::1", 80),)), 1)
    assert live_files(LAYOUT, [route])[0].value == "[::1]:80"


def _immutable(path: str) -> bool:
    if re.search(resources._HASHED_FOLDER, path):
        return True
    return bool(re.search(resources._HASHED_ASSET, path)) and not re.search(resources._WORD, path)


@pytest.mark.parametrize(
    ("path", "immutable"),
    [
        ("/assets/index-DiwrgTda.js", True),
        ("/assets/deep/vendor-B2_xY-9z.css", True),
        ("/_next/static/chunks/main-0123456789abcdef.js", True),
        ("/_astro/page.B1x2y3Z4.css", True),
        ("/_app/immutable/start.1a2b3c.js", True),
        ("/static/js/main.0a1b2c3d.chunk.js", True),
        ("/index.html", False),
        ("/assets/my-document.js", False),
        ("/assets/photo-20240101.js", False),
        ("/assets/x-IMG_0001.png", False),
        ("/assets/lib-version2.js", False),
        ("/static/js/main.js", False),
        ("/_next/static/build-id/_buildManifest.js", False),
        ("/app-DiwrgTda.js", False),
    ],
)
def test_only_names_that_carry_a_hash_are_immutable(path: str, immutable: bool) -> None:
    assert _immutable(path) is immutable
