"""What holds for every route: ids, headers, problems, caps."""

from __future__ import annotations

import asyncio
import json
import stat
from typing import Any

import pytest


async def test_health_and_version_need_no_token(rig: Any) -> None:
    assert (await rig.call("GET", "/healthz")).json() == {"status": "ok"}
    assert (await rig.call("GET", "/v1/info")).json()["version"]


async def test_the_socket_is_reachable_for_the_edge_and_nothing_else_is_opened(rig: Any) -> None:
    assert stat.S_IMODE(rig.socket.stat().st_mode) == 0o666
    assert stat.S_IMODE(rig.socket.parent.stat().st_mode) == 0o711


async def test_a_request_id_is_returned_and_travels_to_the_services(rig: Any) -> None:
    given = await rig.call("GET", "/v1/projects/shop", token=rig.viewer, headers={"X-Request-Id": "my-id-1"})
    assert given.headers["x-request-id"] == "my-id-1"
    assert rig.world.contexts[-1].request_id == "my-id-1"
    assert len(rig.world.contexts[-1].traceparent) == 55
    made = await rig.call("GET", "/healthz", headers={"X-Request-Id": "no spaces\tplease"})
    assert made.headers["x-request-id"].startswith("req_")


async def test_the_teams_id_travels_to_the_services(rig: Any) -> None:
    await rig.call("GET", "/v1/projects/shop/variables", token=rig.viewer)
    assert rig.world.contexts[-1].tenant_id == rig.world.team_id


async def test_every_answer_has_the_headers(rig: Any) -> None:
    for answer in [await rig.call("GET", "/healthz"), await rig.call("GET", "/nowhere"), await rig.call("GET", "/v1/me")]:
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/v1/", 404), ("DELETE", "/healthz", 405), ("GET", "/v1/me", 401)],
)
async def test_errors_are_problem_documents(shared_rig: Any, method: str, path: str, status: int) -> None:
    answer = await shared_rig.call(method, path)
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert (problem["status"], problem["request_id"]) == (status, answer.headers["x-request-id"])
    assert problem["type"].startswith("urn:shipoff:")


async def test_401_tells_the_scheme(rig: Any) -> None:
    assert (await rig.call("GET", "/v1/me")).headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "x", "surprise": 1}, "surprise"),
        ({"name": "x", "build": {"role": "owner"}}, "build.role"),
        ({"name": ""}, "name"),
        ({}, "name"),
        ([], ""),
    ],
)
async def test_what_is_wrong_in_a_body_is_400_and_names_the_field(shared_rig: Any, body: Any, field: str) -> None:
    answer = await shared_rig.call("POST", "/v1/projects", token=shared_rig.developer, json=body)
    assert answer.status_code == 400
    assert answer.json().get("field", "") == field


async def test_a_wrong_value_is_not_repeated_in_the_problem(rig: Any) -> None:
    answer = await rig.call("POST", "/v1/tokens", token=rig.owner, json={"name": "n" * 200 + "s3cret"})
    assert answer.status_code == 400
    assert "s3cret" not in answer.text


@pytest.mark.parametrize("body", [b"{", b"nonsense", b'{"name": NaN', b"\xff\xfe"])
async def test_broken_json_is_400(shared_rig: Any, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await shared_rig.call("POST", "/v1/projects", token=shared_rig.developer, content=body, headers=headers)
    assert answer.status_code == 400


async def test_another_media_type_is_415(rig: Any) -> None:
    answer = await rig.call(
        "POST", "/v1/projects", token=rig.developer, content=b"name=x", headers={"Content-Type": "text/plain"}
    )
    assert answer.status_code == 415


async def test_json_nested_ten_thousand_deep_is_400(rig: Any) -> None:
    body = b'{"name":' + b"[" * 10_000 + b"]" * 10_000 + b"}"
    headers = {"Content-Type": "application/json"}
    answer = await rig.call("POST", "/v1/projects", token=rig.developer, content=body, headers=headers)
    assert (answer.status_code, answer.json()["field"]) == (400, "body")


async def test_a_body_of_25_mb_is_413_whether_its_length_is_told_or_not(rig: Any) -> None:
    async def endless() -> Any:
        for _ in range(25):
            yield b"x" * (1 << 20)

    headers = {"Content-Type": "application/json"}
    told = await raw(rig, b"POST /v1/projects HTTP/1.1", b"Content-Length: 26214400", rig.developer)
    assert told.startswith(b"HTTP/1.1 413")
    answer = await rig.call("POST", "/v1/projects", token=rig.developer, content=endless(), headers=headers)
    assert answer.status_code == 413


async def test_nothing_of_a_body_is_read_before_the_token_is_checked(rig: Any) -> None:
    answer = await raw(
        rig, b"POST /v1/projects HTTP/1.1", b"Content-Type: application/json\r\nContent-Length: 1000", "shp_wrong"
    )
    assert answer.startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(
    "header",
    [b"Host: other.localhost", b"Content-Length: 2\r\nTransfer-Encoding: chunked", b"Content-Length: 2\r\nContent-Length: 3"],
)
async def test_ambiguous_framing_is_400(shared_rig: Any, header: bytes) -> None:
    assert (await raw(shared_rig, b"GET /healthz HTTP/1.1", header)).startswith(b"HTTP/1.1 400")


async def raw(rig: Any, line: bytes, header: bytes, token: str = "") -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(rig.socket))
    authorization = f"Authorization: Bearer {token}\r\n".encode() if token else b""
    writer.write(line + b"\r\nHost: api.localhost\r\n" + authorization + header + b"\r\n\r\n")
    try:
        return await asyncio.wait_for(reader.read(4096), 10)
    finally:
        writer.close()


async def test_a_service_that_is_away_is_503_with_a_time_to_wait(gateway_with: Any) -> None:
    async with gateway_with(without=("project",)) as rig:
        answer = await rig.call("GET", "/v1/projects/shop", token=rig.viewer)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert "sock" not in answer.text


async def test_a_defect_of_a_service_is_500_without_its_story(rig: Any) -> None:
    rig.world.projects[0].ClearField("environments")
    rig.world.accepted.clear()
    rig.world.deployments["not an id"] = None
    answer = await rig.call("GET", "/v1/projects/shop/deployments", token=rig.viewer)
    assert answer.status_code == 500
    assert "NoneType" not in answer.text
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


async def test_a_user_that_asks_too_much_waits(gateway_with: Any) -> None:
    async with gateway_with(user_per_s=0.1, user_burst=3) as rig:
        answers = [await rig.call("GET", "/v1/me", token=rig.viewer) for _ in range(4)]
        other = await rig.call("GET", "/v1/me", token=rig.owner)
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert int(answers[-1].headers["retry-after"]) in range(1, 11)
    assert other.status_code == 200


async def test_the_openapi_document_is_served(rig: Any) -> None:
    document = json.loads((await rig.call("GET", "/v1/openapi.json")).text)
    assert "/v1/projects/{project}" in document["paths"]
