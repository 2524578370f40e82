"""Nothing that somebody sends makes a 5xx, on any route."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from neighbours.gateway import a_gateway

from shipoff.common.ids import new_id
from shipoff.gateway.app import create_app

TEXTS = [
    "",
    "\x00",
    "a\x00b",
    "../../etc/passwd",
    "%2e%2e",
    "'; DROP TABLE users;--",
    "-oProxyCommand=x",
    "٣",
    "x" * 5000,
    "\ufffe",
    "NULL",
    "-1",
]
NUMBERS = ["0", "-1", "1e9", "9" * 40, "1.5", "nan"]
BODIES = [
    b"null",
    b"[]",
    b'"text"',
    b"1",
    b"{}",
    b'{"name":"a\\u0000b","url":"\\u0000","email":"a\\u0000@b.c"}',
    b'{"name":"\\ud800"}',
    b'{"variables":{"\\ud800":"\\udfff"}}',
    b'{"variables":{"A\\u0000":"b"}}',
    b'{"replicas":1e400}',
    b'{"replicas":' + b"9" * 5000 + b"}",
    b'{"replicas":NaN}',
    b'{"environment":"' + b"x" * 100_000 + b'"}',
    b'{"name":1,"build":[],"run":"","repository":{"url":{}}}',
    b'{"to":[1]}',
    b'{"to":1.5}',
    b'{"expires_at":"9999-12-31T23:59:59Z","name":"x"}',
    b'{"expires_at":"0001-01-01T00:00:00+14:00","name":"x"}',
    b'{"expires_at":-99999999999999,"name":"x"}',
    b'{"source":{"git":{"url":"--upload-pack=touch /tmp/x","ref":"main;curl${IFS}x|sh"}}}',
    b'{"__proto__":{},"constructor":1}',
    b"\xff\xfe{",
    b"{" * 5000,
]


def operations() -> Iterator[tuple[str, str, list[str]]]:
    document = create_app(None).openapi()  # type: ignore[arg-type]  # the document needs no services
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            names = [p["name"] for p in operation.get("parameters", []) if p["in"] == "query"]
            yield method.upper(), path, names


OPERATIONS = list(operations())


@pytest.fixture(scope="module")
async def gateway_for_nasty(shipoff_home: Path) -> AsyncIterator[Any]:
    """A gateway that does not mind how often it is asked."""
    folder = shipoff_home / new_id()[-8:]
    folder.mkdir()
    async with a_gateway(folder, user_burst=100_000, anonymous_burst=100_000, failures_burst=100_000) as made:
        yield made


def url(rig: Any, path: str) -> str:
    deployment = next(iter(rig.world.deployments.values()), None) or rig.world.deployment("FAILED")
    ids = {"project": "shop", "deployment_id": deployment.id, "team_id": rig.world.team_id}
    for name, value in ids.items():
        path = path.replace(f"{{{name}}}", value)
    return (
        path.replace("{token_id}", new_id())
        .replace("{user_id}", new_id())
        .replace("{hook_id}", new_id())
        .replace("{name}", "KEY")
    )


def check(answer: Any, what: Any) -> None:
    assert answer.status_code < 500, (what, answer.text)
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json", what
        json.loads(answer.text)


@pytest.mark.parametrize(("method", "path", "names"), OPERATIONS, ids=str)
async def test_nasty_bodies_and_queries(gateway_for_nasty: Any, method: str, path: str, names: list[str]) -> None:
    rig = gateway_for_nasty
    for body in BODIES if method in ("POST", "PUT", "PATCH") else []:
        headers = {"Content-Type": "application/json"}
        check(await rig.call(method, url(rig, path), token=rig.owner, content=body, headers=headers), body[:80])
    for name in names:
        for value in [*TEXTS, *NUMBERS]:
            answer = await rig.call(method, f"{url(rig, path)}?{name}={quote(value)}", token=rig.owner)
            check(answer, (name, value[:50]))


@pytest.mark.parametrize("name", ["project", "deployment_id", "team_id", "token_id", "user_id", "hook_id", "name"])
async def test_nasty_paths(gateway_for_nasty: Any, name: str) -> None:
    rig = gateway_for_nasty
    method, path, _ = next(operation for operation in OPERATIONS if f"{{{name}}}" in operation[1])
    for value in TEXTS:
        if value:
            answer = await rig.call(method, url(rig, path.replace(f"{{{name}}}", quote(value, safe=""))), token=rig.owner)
            check(answer, value[:50])
