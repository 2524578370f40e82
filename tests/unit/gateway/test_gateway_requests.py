"""Reading requests: tokens, addresses, depth of JSON, origins."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection, Request

from shipoff.common.errors import InvalidInput, PermissionDenied, Unauthenticated
from shipoff.gateway.authentication import token_of
from shipoff.gateway.bodies import DEEPEST_JSON, check_depth, declared_bytes
from shipoff.gateway.edge import Edge, address_of
from shipoff.gateway.problems import Refused
from shipoff.gateway.routes.stream import check_origin
from shipoff.gateway.settings import GatewaySettings


def connection(*headers: tuple[str, str], query: str = "", client: Any = None) -> Request:
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
        "client": client,
    }
    return Request(scope)


def test_a_bearer_token_is_taken_from_the_header() -> None:
    assert token_of(connection(("Authorization", "Bearer shp_abc"))) == "shp_abc"
    assert token_of(connection(("Authorization", "bearer shp_abc"), query="environment=production")) == "shp_abc"


@pytest.mark.parametrize(
    "value", ["", "Bearer", "Basic shp_abc", "shp_abc", "Bearer \xe9", "Bearer " + "x" * 201, "Bearer a\x7fb"]
)
def test_everything_else_is_no_token(value: str) -> None:
    with pytest.raises(Unauthenticated):
        token_of(connection(("Authorization", value)))


@pytest.mark.parametrize("query", ["token=x", "TOKEN=x", "access_token=", "a=1&bearer=x", "anything=shp_abc"])
def test_a_token_in_the_query_is_refused(query: str) -> None:
    with pytest.raises(InvalidInput):
        token_of(connection(("Authorization", "Bearer shp_abc"), query=query))


@pytest.mark.parametrize(
    ("client", "forwarded", "address"),
    [
        (None, "203.0.113.9", "203.0.113.9"),
        (None, "10.0.0.1, 203.0.113.9", "203.0.113.9"),
        (None, "", "local"),
        (None, "<script>", "local"),
        (None, "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        (("198.51.100.7", 5), "203.0.113.9", "198.51.100.7"),
    ],
)
def test_the_address_is_the_peers_or_what_the_edge_says(client: Any, forwarded: str, address: str) -> None:
    headers = [("X-Forwarded-For", forwarded)] if forwarded else []
    assert address_of(HTTPConnection(connection(*headers, client=client).scope)) == address


@pytest.mark.parametrize(
    ("client", "forwarded", "address"),
    [
        (("10.42.0.7", 4000), "198.51.100.1, 203.0.113.9", "203.0.113.9"),
        (("10.42.0.7", 4000), "2001:db8:1:2:3::9", "2001:db8:1:2::/64"),
        # Not the proxy's network: what it says of others is nobody's word.
        (("10.43.0.7", 4000), "203.0.113.9", "10.43.0.7"),
        (("10.42.0.7", 4000), "", "10.42.0.7"),
        (("10.42.0.7", 4000), "203.0.113.9, unknown", "10.42.0.7"),
    ],
)
async def test_a_trusted_proxy_says_who_asks(client: Any, forwarded: str, address: str) -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(address_of(HTTPConnection(scope)))

    headers = [("X-Forwarded-For", forwarded)] if forwarded else []
    trusted = GatewaySettings(trusted_proxies="10.42.0.0/16, 192.0.2.0/24").proxies
    await Edge(app, trusted=trusted)(connection(*headers, client=client).scope, None, None)  # type: ignore[arg-type]
    assert seen == [address]


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max((depth_of(inner) for inner in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((depth_of(inner) for inner in value), default=0)
    return 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30,
)


@given(JSON, st.integers(0, 2 * DEEPEST_JSON))
def test_the_depth_that_is_refused_is_the_depth_of_the_document(value: Any, extra: int) -> None:
    for _ in range(extra):
        value = [value, '"]}\\']
    body = json.dumps(value).encode()
    if depth_of(value) > DEEPEST_JSON:
        with pytest.raises(InvalidInput):
            check_depth(body)
    else:
        check_depth(body)


def test_brackets_in_strings_do_not_count() -> None:
    check_depth(json.dumps({"a": "[" * 10_000 + '\\"{' * 1000}).encode())


@pytest.mark.parametrize(
    "body", [b'"' + b'\\"' * 400_000 + b"[" * 99, b"[]" * 400_000, b'"\\' * 300_000 + b"[" * 99, b"[" * 800_000]
)
def test_no_body_makes_the_check_slow(body: bytes) -> None:
    started_s = time.process_time()
    with contextlib.suppress(InvalidInput):
        check_depth(body)
    assert time.process_time() - started_s < 2


@pytest.mark.parametrize("length", ["-1", "+5", "1e3", "0x10", "9" * 30, "٣"])
def test_a_length_that_is_no_number_is_refused(length: str) -> None:
    scope = connection().scope
    scope["headers"] = [(b"content-length", length.encode())]
    with pytest.raises(InvalidInput):
        declared_bytes(Request(scope), 100)


def test_a_length_above_the_cap_is_refused_before_anything_is_read() -> None:
    assert declared_bytes(connection(("Content-Length", "100")), 100) == 100
    assert declared_bytes(connection(), 100) is None
    with pytest.raises(Refused) as raised:
        declared_bytes(connection(("Content-Length", "101")), 100)
    assert raised.value.status == 413


SETTINGS = GatewaySettings(allowed_origins=("https://console.example.com",))


@pytest.mark.parametrize(
    "origin", [None, "http://api.localhost:8080", "https://api.localhost:8080", "https://console.example.com"]
)
def test_programs_and_the_apis_own_pages_may_open_streams(origin: str | None) -> None:
    check_origin(origin, "api.localhost:8080", SETTINGS)


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "https://evil.example",
        "http://api.localhost",
        "http://api.localhost:8080.evil.example",
        "file://api.localhost:8080",
        "http://evil@api.localhost:8080",
        "https://console.example.com.evil.example",
    ],
)
def test_pages_of_other_origins_may_not(origin: str) -> None:
    with pytest.raises(PermissionDenied):
        check_origin(origin, "api.localhost:8080", SETTINGS)


def test_no_origin_matches_a_host_that_is_missing() -> None:
    with pytest.raises(PermissionDenied):
        check_origin("http://", "", SETTINGS)
