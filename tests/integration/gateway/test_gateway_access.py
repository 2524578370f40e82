"""Who may do what: every route as a stranger, without a token, and with too low a role."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from shipoff.common.ids import new_id
from shipoff.gateway.app import create_app
from shipoff.gateway.settings import GatewaySettings

OPEN = {"/healthz", "/v1/info", "/v1/setup", "/webhooks/github"}
# These are about the caller alone.
OWN = {"/v1/me", "/v1/tokens", "/v1/tokens/{token_id}", "/v1/teams", "/v1/queue", "/v1/detect"}
# These are for owners of the team that runs the platform.
OPERATING = {f"/v1/events/dead{path}" for path in ("", "/replay", "/drop", "/{event_id}", "/{event_id}/replay")}
# GET lists the caller's own, POST checks the team in its body.
COLLECTION = "/v1/projects"
BODIES: dict[str, Any] = {
    "POST /v1/projects/{project}/deployments": {"source": {"archive": {"digest": "sha256:" + "ab" * 32}}},
    "POST /v1/deployments/{deployment_id}/promote": {"environment": "staging"},
    "POST /v1/projects/{project}/scale": {"replicas": 2},
    "POST /v1/projects/{project}/rollback": {},
    "POST /v1/projects/{project}/restart": {},
    "POST /v1/projects/{project}/pause": {},
    "POST /v1/projects/{project}/resume": {},
    "POST /v1/deployments/{deployment_id}/redeploy": {},
    "PATCH /v1/projects/{project}": {},
    "PUT /v1/projects/{project}/variables": {"variables": {"A": "b"}},
    "POST /v1/projects/{project}/hooks": {"url": "https://example.com/hook"},
    "POST /v1/teams/{team_id}/members": {"email": "new@example.com", "role": "viewer"},
    "POST /v1/projects": {"name": "x"},
    "POST /v1/tokens": {"name": "x"},
    "POST /v1/teams": {"name": "x"},
    "POST /v1/events/dead/replay": {},
    "POST /v1/events/dead/drop": {},
    "POST /v1/detect": {"paths": ["index.html"]},
}


@dataclass(frozen=True)
class Operation:
    method: str
    path: str

    def url(self, **ids: str) -> str:
        return re.sub(r"{(\w+)}", lambda match: ids.get(match[1], new_id()), self.path)

    @property
    def body(self) -> dict[str, Any]:
        key = f"{self.method} {self.path}"
        if key.endswith("/sources"):
            return {"content": b"archive", "headers": {"Content-Type": "application/gzip"}}
        return {"json": BODIES[key]} if key in BODIES else {}


def operations() -> Iterator[Operation]:
    class _Nothing:
        settings = GatewaySettings()

    document = create_app(_Nothing()).openapi()  # type: ignore[arg-type]
    for path, methods in document["paths"].items():
        for method in methods:
            yield Operation(method.upper(), path)


GUARDED = [operation for operation in operations() if operation.path not in OPEN]
OF_A_TEAM = [operation for operation in GUARDED if operation.path not in OWN | OPERATING and operation.path != COLLECTION]
OF_THE_PLATFORM = [operation for operation in GUARDED if operation.path in OPERATING]


def test_the_document_lists_every_route() -> None:
    assert len(GUARDED) >= 30
    assert {operation.path for operation in operations()} >= OPEN | OWN


@pytest.mark.parametrize("operation", GUARDED, ids=lambda o: f"{o.method} {o.path}")
async def test_without_a_token_every_route_is_401(shared_rig: Any, operation: Operation) -> None:
    answer = await shared_rig.call(operation.method, operation.url(project="shop"), **operation.body)
    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
    assert [name for name, _ in shared_rig.world.calls] == []


@pytest.mark.parametrize("operation", OF_A_TEAM, ids=lambda o: f"{o.method} {o.path}")
async def test_a_stranger_gets_the_answer_of_what_does_not_exist(shared_rig: Any, operation: Operation) -> None:
    deployment = shared_rig.world.deployment("QUEUED")
    ids = {"project": shared_rig.project.id, "deployment_id": deployment.id, "team_id": shared_rig.world.team_id}
    unknown_ids = {"project": new_id(), "deployment_id": new_id(), "team_id": new_id()}
    theirs = await shared_rig.call(operation.method, operation.url(**ids), token=shared_rig.stranger, **operation.body)
    unknown = await shared_rig.call(operation.method, operation.url(**unknown_ids), token=shared_rig.stranger, **operation.body)
    assert (theirs.status_code, unknown.status_code) == (404, 404)
    assert without_ids(theirs.text) == without_ids(unknown.text)
    assert {name for name, _ in shared_rig.world.calls} <= {
        "Authenticate",
        "GetProject",
        "GetDeployment",
        "GetDeploymentRequest",
    }


def without_ids(text: str) -> str:
    return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|req_[0-9a-f]+", "ID", text)


async def test_a_stranger_gets_the_same_answer_by_name(rig: Any) -> None:
    theirs = await rig.call("GET", "/v1/projects/shop", token=rig.stranger)
    unknown = await rig.call("GET", "/v1/projects/shot", token=rig.stranger)
    assert without_ids(theirs.text).replace("shop", "X") == without_ids(unknown.text).replace("shot", "X")


CHANGING = [o for o in OF_A_TEAM if o.method != "GET" and "user_id" not in o.path]


@pytest.mark.parametrize("operation", CHANGING, ids=lambda o: f"{o.method} {o.path}")
async def test_a_viewer_changes_nothing(shared_rig: Any, operation: Operation) -> None:
    deployment = shared_rig.world.deployment("QUEUED")
    url = operation.url(project="shop", deployment_id=deployment.id, team_id=shared_rig.world.team_id)
    answer = await shared_rig.call(operation.method, url, token=shared_rig.viewer, **operation.body)
    assert answer.status_code == 403
    assert {name for name, _ in shared_rig.world.calls} <= {"Authenticate", "GetProject", "GetDeployment"}


@pytest.mark.parametrize("operation", OF_THE_PLATFORM, ids=lambda o: f"{o.method} {o.path}")
@pytest.mark.parametrize("who", ["stranger", "developer", "viewer", "loner"])
async def test_what_is_the_platforms_is_for_its_owners(shared_rig: Any, operation: Operation, who: str) -> None:
    """The stranger owns another team; the developer is in the platform's own."""
    answer = await shared_rig.call(operation.method, operation.url(), token=getattr(shared_rig, who), **operation.body)
    assert (answer.status_code, "owners of the team" in answer.json()["detail"]) == (403, True)
    assert {name for name, _ in shared_rig.world.calls} <= {"Authenticate"}


def test_there_are_routes_of_the_platforms() -> None:
    assert {operation.path for operation in OF_THE_PLATFORM} == OPERATING


async def test_nobody_runs_a_platform_without_a_team_of_its_own(rig: Any) -> None:
    rig.world.tokens[rig.owner].platform_team_id = ""
    assert (await rig.call("GET", "/v1/events/dead", token=rig.owner)).status_code == 403


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "/v1/projects/shop", None),
        ("POST", "/v1/teams/{team}/members", {"email": "x@example.com", "role": "owner"}),
        ("DELETE", "/v1/teams/{team}/members/{user}", None),
        ("GET", "/v1/teams/{team}/audit", None),
    ],
)
async def test_what_only_an_owner_may(rig: Any, method: str, path: str, body: Any) -> None:
    url = path.format(team=rig.world.team_id, user=new_id())
    kwargs = {"json": body} if body else {}
    assert (await rig.call(method, url, token=rig.developer, **kwargs)).status_code == 403
    assert (await rig.call(method, url, token=rig.owner, **kwargs)).status_code < 300


async def test_a_member_may_leave(rig: Any) -> None:
    own = rig.world.tokens[rig.viewer].user.id
    answer = await rig.call("DELETE", f"/v1/teams/{rig.world.team_id}/members/{own}", token=rig.viewer)
    assert answer.status_code == 204


async def test_a_viewer_reads_names_of_variables_but_no_values(rig: Any) -> None:
    assert (await rig.call("GET", "/v1/projects/shop/variables?reveal=true", token=rig.viewer)).status_code == 403
    answer = await rig.call("GET", "/v1/projects/shop/variables", token=rig.viewer)
    assert [(v["name"], v["value"]) for v in answer.json()["items"]] == [("KEY", None)]
    assert "s3cret" not in answer.text


async def test_revealing_is_written_down(rig: Any) -> None:
    answer = await rig.call("GET", "/v1/projects/shop/variables?reveal=true", token=rig.developer)
    assert answer.json()["items"][0]["value"] == "s3cret"
    assert rig.world.audited() == ["variables.reveal"]


async def test_nobody_makes_a_project_in_another_team(rig: Any) -> None:
    body = {"name": "x", "team_id": rig.world.team_id}
    assert (await rig.call("POST", "/v1/projects", token=rig.stranger, json=body)).status_code == 404
    assert (await rig.call("POST", "/v1/projects", token=rig.viewer, json=body)).status_code == 403
    assert rig.world.asked("CreateProject") == []


async def test_who_is_in_no_team_sees_nothing(rig: Any) -> None:
    assert (await rig.call("GET", "/v1/projects", token=rig.loner)).json() == {"items": [], "next_cursor": None}
    await rig.call("GET", "/v1/queue", token=rig.loner)
    (asked,) = rig.world.asked("ListQueue")
    assert len(asked.team_ids) == 1
    assert rig.world.team_id not in asked.team_ids


async def test_the_queue_is_asked_for_the_callers_teams_only(rig: Any) -> None:
    await rig.call("GET", "/v1/queue", token=rig.viewer)
    assert list(rig.world.asked("ListQueue")[0].team_ids) == [rig.world.team_id]


@pytest.mark.parametrize("query", ["token=shp_owner", "access_token=x", "Authorization=x", "q=shp_owner"])
async def test_a_token_in_the_url_is_refused_even_beside_a_good_one(shared_rig: Any, query: str) -> None:
    answer = await shared_rig.call("GET", f"/v1/me?{query}", token=shared_rig.owner)
    assert answer.status_code == 400
    assert "shp_owner" not in answer.text


@pytest.mark.parametrize("header", ["", "Basic c2hwOng=", "Bearer", "shp_owner", "Bearer " + "x" * 300, "Bearer a\tb"])
async def test_anything_but_one_bearer_token_is_401(shared_rig: Any, header: str) -> None:
    assert (await shared_rig.call("GET", "/v1/me", headers={"Authorization": header})).status_code == 401


async def test_two_authorization_headers_are_401(rig: Any) -> None:
    answer = await rig.http.get("/v1/me", headers=[("Authorization", f"Bearer {rig.owner}"), ("Authorization", "Bearer x")])
    assert answer.status_code == 401


async def test_a_thousand_wrong_tokens_end_in_429_and_the_answer_tells_nothing(gateway_with: Any) -> None:
    async with gateway_with(failures_burst=5, failures_per_s=0.01) as rig:
        statuses = [(await rig.call("GET", "/v1/me", token=f"shp_guess{n}")).status_code for n in range(40)]
        assert statuses == [401] * 5 + [429] * 35
        right = await rig.call("GET", "/v1/me", token=rig.owner)
        wrong = await rig.call("GET", "/v1/me", token="shp_another")
        assert without_ids(right.text) == without_ids(wrong.text)
        assert (right.status_code, right.headers["retry-after"]) == (429, wrong.headers["retry-after"])
        elsewhere = await rig.call("GET", "/v1/me", token=rig.owner, headers={"X-Forwarded-For": "203.0.113.9"})
        assert elsewhere.status_code == 200
    assert len(rig.world.asked("Authenticate")) == 6


async def test_a_token_that_was_right_is_not_locked_out_by_its_neighbours(gateway_with: Any) -> None:
    async with gateway_with(failures_burst=2, failures_per_s=0.01, authentication_cache_s=0) as rig:
        assert (await rig.call("GET", "/v1/me", token=rig.owner)).status_code == 200
        for number in range(5):
            await rig.call("GET", "/v1/me", token=f"shp_guess{number}")
        assert (await rig.call("GET", "/v1/me", token=rig.owner)).status_code == 200
        del rig.world.tokens[rig.owner]
        assert (await rig.call("GET", "/v1/me", token=rig.owner)).status_code == 401


async def test_wrong_setup_tokens_end_in_429(gateway_with: Any) -> None:
    body = {"setup_token": "wrong", "email": "a@example.com", "name": "A", "team": "acme"}
    async with gateway_with(failures_burst=2, failures_per_s=0.01) as rig:
        statuses = [(await rig.call("POST", "/v1/setup", json=body)).status_code for _ in range(4)]
        assert statuses == [401, 401, 429, 429]
        right = await rig.call("POST", "/v1/setup", json={**body, "setup_token": "right"})
        assert right.status_code == 429


async def test_identity_is_asked_once_for_many_requests(rig: Any) -> None:
    for _ in range(5):
        await rig.call("GET", "/v1/me", token=rig.owner)
    assert len(rig.world.asked("Authenticate")) == 1


async def test_a_change_of_tokens_through_the_gateway_is_seen_at_once(rig: Any) -> None:
    await rig.call("GET", "/v1/me", token=rig.owner)
    await rig.call("DELETE", f"/v1/tokens/{new_id()}", token=rig.owner)
    del rig.world.tokens[rig.owner]
    assert (await rig.call("GET", "/v1/me", token=rig.owner)).status_code == 401


async def test_the_stream_is_guarded_like_every_route(rig: Any) -> None:
    deployment = rig.world.deployment("QUEUED")
    path = f"/v1/deployments/{deployment.id}/logs"
    cases: list[tuple[str, dict[str, Any], int]] = [
        (path, {}, 401),
        (path, {"token": "shp_wrong"}, 401),
        (path, {"token": rig.stranger}, 404),
        (f"/v1/deployments/{new_id()}/logs", {"token": rig.owner}, 404),
        (f"{path}?token={rig.owner}", {}, 400),
        (f"{path}?source=nonsense", {"token": rig.owner}, 400),
        (path, {"token": rig.viewer, "headers": {"Origin": "https://evil.example"}}, 403),
        (path, {"token": rig.viewer, "headers": {"Origin": "null"}}, 403),
    ]
    for url, given, status in cases:
        with pytest.raises(InvalidStatus) as raised:
            await rig.follow(url, **given)
        assert raised.value.response.status_code == status, (url, given)
        assert raised.value.response.headers["content-type"] == "application/problem+json"
    assert rig.world.streams_open == set()


async def test_a_page_of_the_apis_own_origin_may_open_a_stream(rig: Any) -> None:
    deployment = rig.world.deployment("FAILED")
    async with rig.follow(
        f"/v1/deployments/{deployment.id}/logs", token=rig.viewer, headers={"Origin": "http://api.localhost"}
    ) as stream:
        assert '"state"' in await stream.recv()
