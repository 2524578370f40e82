"""What the routes ask of the services, what they answer, and what they write down."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from shipoff.common.ids import new_id
from shipoff.contracts.types.v1 import types_pb2

ARCHIVE = {"source": {"archive": {"digest": "sha256:" + "ab" * 32}}}


async def test_setup_returns_the_first_owner_and_is_written_down(rig: Any) -> None:
    body = {"setup_token": "right", "email": "ada@example.com", "name": "Ada", "team": "acme"}
    answer = await rig.call("POST", "/v1/setup", json=body)
    assert answer.status_code == 201
    assert (answer.json()["token"], answer.json()["team"]["name"]) == ("shp_first", "acme")
    assert rig.world.audited() == ["platform.setup"]


async def test_me_tells_the_teams_and_roles(rig: Any) -> None:
    answer = (await rig.call("GET", "/v1/me", token=rig.developer)).json()
    assert answer["user"]["email"] == "developer@example.com"
    assert [(team["id"], team["role"]) for team in answer["teams"]] == [(rig.world.team_id, "developer")]


async def test_tokens_teams_and_members(rig: Any) -> None:
    made = await rig.call("POST", "/v1/tokens", token=rig.owner, json={"name": "ci", "expires_at": "2030-01-01T00:00:00Z"})
    assert (made.status_code, made.json()["token"], made.json()["expires_at"]) == (201, "shp_new", None)
    assert rig.world.asked("CreateToken")[0].expires_at.seconds == 1893456000
    listed = (await rig.call("GET", "/v1/tokens", token=rig.owner)).json()["items"]
    assert [token["name"] for token in listed] == ["ci"]
    assert "token" not in listed[0]
    team = await rig.call("POST", "/v1/teams", token=rig.owner, json={"name": "second"})
    assert (team.status_code, team.json()["name"]) == (201, "second")
    member = await rig.call(
        "POST", f"/v1/teams/{rig.world.team_id}/members", token=rig.owner, json={"email": "b@example.com", "role": "viewer"}
    )
    assert (member.json()["role"], member.json()["token"]) == ("viewer", "shp_member")
    assert rig.world.audited() == ["token.create", "team.create", "member.set"]


async def test_a_token_has_to_expire_at_a_time_with_a_zone(rig: Any) -> None:
    answer = await rig.call("POST", "/v1/tokens", token=rig.owner, json={"name": "ci", "expires_at": "2030-01-01T00:00:00"})
    assert (answer.status_code, answer.json()["field"]) == (400, "expires_at")


async def test_the_audit_log_is_read_in_pages(rig: Any) -> None:
    path = f"/v1/teams/{rig.world.team_id}/audit"
    page = (await rig.call("GET", f"{path}?limit=7&cursor=abc", token=rig.owner)).json()
    assert (page["next_cursor"], page["items"][0]["action"]) == ("more", "project.create")
    asked = rig.world.asked("ListAudit")[0]
    assert (asked.page_size, asked.page_token) == (7, "abc")


async def test_a_project_is_made_in_the_callers_only_team(rig: Any) -> None:
    body = {"name": "blog", "build": {"build_command": "make"}, "repository": {"url": "https://example.com/r.git"}}
    answer = await rig.call("POST", "/v1/projects", token=rig.developer, json=body)
    made = answer.json()
    assert (answer.status_code, made["name"], made["team_id"]) == (201, "blog", rig.world.team_id)
    assert made["build"]["build_command"] == "make"
    assert made["environments"][0] == {
        "name": "production",
        "hosts": ["blog.localhost"],
        "urls": ["http://blog.localhost:8080"],
    }
    assert rig.world.asked("CreateProject")[0].repository.url == "https://example.com/r.git"
    assert rig.world.audited() == ["project.create"]


async def test_projects_are_read_in_pages(rig: Any) -> None:
    page = (await rig.call("GET", "/v1/projects?limit=1&cursor=abc", token=rig.viewer)).json()
    assert ([item["name"] for item in page["items"]], page["next_cursor"]) == (["shop"], "next")
    assert (await rig.call("GET", "/v1/projects?limit=0", token=rig.viewer)).status_code == 400


async def test_a_patch_changes_what_it_names_and_keeps_the_rest(rig: Any) -> None:
    rig.project.build.CopyFrom(types_pb2.BuildSettings(build_command="make", start_command="./run"))
    answer = await rig.call("PATCH", "/v1/projects/shop", token=rig.developer, json={"build": {"build_command": ""}})
    assert answer.status_code == 200
    asked = rig.world.asked("UpdateProject")[0]
    assert (asked.build.build_command, asked.build.start_command) == ("", "./run")
    assert (asked.HasField("run"), asked.HasField("repository")) == (False, False)


async def test_variables_are_written_down_by_name_only(rig: Any) -> None:
    body = {"variables": {"DATABASE_URL": "postgres://u:p4ss@h/d"}, "environment": "staging"}
    answer = await rig.call("PUT", "/v1/projects/shop/variables", token=rig.developer, json=body)
    assert answer.json() == {"configuration_version": 3}
    assert rig.world.asked("SetVariables")[0].environment == "staging"
    gone = await rig.call("DELETE", "/v1/projects/shop/variables/DATABASE_URL?environment=staging", token=rig.developer)
    assert gone.json() == {"configuration_version": 4}
    both = await rig.call("DELETE", "/v1/projects/shop/variables?name=B&name=A", token=rig.developer)
    assert both.json() == {"configuration_version": 4}
    assert list(rig.world.asked("UnsetVariables")[1].names) == ["B", "A"]
    details = [request.entry.detail for request in rig.world.asked("RecordAudit")]
    assert details == ["staging: DATABASE_URL", "staging: DATABASE_URL", "production: A, B"]


async def test_deleting_a_project(rig: Any) -> None:
    assert (await rig.call("DELETE", "/v1/projects/shop", token=rig.owner)).status_code == 204
    assert rig.world.asked("DeleteProject")[0].deleted_by == rig.world.tokens[rig.owner].user.id
    assert rig.world.audited() == ["project.delete"]


async def test_a_developer_may_take_an_unused_project_back(rig: Any) -> None:
    assert (await rig.call("DELETE", "/v1/projects/shop?only_unused=true", token=rig.developer)).status_code == 204
    assert rig.world.asked("DeleteProject")[0].only_unused


async def test_hooks_show_their_secret_once(rig: Any) -> None:
    made = await rig.call("POST", "/v1/projects/shop/hooks", token=rig.developer, json={"url": "https://example.com/h"})
    assert (made.status_code, made.json()["secret"]) == (201, "whsec")
    assert (await rig.call("GET", "/v1/projects/shop/hooks", token=rig.viewer)).json() == {"items": []}
    answer = await rig.call("DELETE", f"/v1/projects/shop/hooks/{made.json()['id']}", token=rig.developer)
    assert answer.status_code == 204
    assert rig.world.audited() == ["hook.create", "hook.delete"]


async def test_an_accepted_deployment_is_queued_before_the_orchestrator_knows_it(rig: Any) -> None:
    answer = await rig.call(
        "POST", "/v1/projects/shop/deployments", token=rig.developer, json=ARCHIVE, headers={"Idempotency-Key": "k1"}
    )
    made = answer.json()
    assert (answer.status_code, made["state"], made["number"]) == (202, "queued", None)
    assert (made["urls"], made["trigger"]) == (["http://shop.localhost:8080"], "upload")
    asked = rig.world.asked("RequestDeployment")[0]
    assert (asked.idempotency_key, asked.environment, asked.project_id) == ("k1", "production", rig.project.id)
    assert (await rig.call("GET", f"/v1/deployments/{made['id']}", token=rig.viewer)).json() == made
    assert (await rig.call("GET", f"/v1/deployments/{made['id']}", token=rig.stranger)).status_code == 404
    assert rig.world.audited() == ["deployment.create"]


@pytest.mark.parametrize(
    "source",
    [
        {},
        {"archive": {"digest": "sha256:" + "ab" * 32}, "git": {"url": "x"}},
        {"archive": {"digest": "md5:1"}},
        {"git": {"url": ""}},
    ],
)
async def test_a_source_is_exactly_one_well_formed_thing(rig: Any, source: Any) -> None:
    answer = await rig.call("POST", "/v1/projects/shop/deployments", token=rig.developer, json={"source": source})
    assert answer.status_code == 400
    assert answer.json()["field"].startswith("source")


async def test_a_deployment_is_shown_whole(rig: Any) -> None:
    deployment = rig.world.deployment("PRODUCTION", served=True, commit="c" * 40)
    deployment.plan.provider = "python"
    deployment.plan.mode = types_pb2.PLAN_MODE_SERVER
    deployment.plan.steps.add(name="install", env={"SECRET": "in a plan"}).commands.add(argv=["uv", "sync"])
    answer = await rig.call("GET", f"/v1/deployments/{deployment.id}", token=rig.viewer)
    shown = answer.json()
    assert (shown["state"], shown["number"], shown["commit"]) == ("production", 1, "c" * 40)
    assert shown["source"] == {"archive": {"digest": "sha256:" + "ab" * 32, "size_bytes": 7}}
    assert shown["plan"]["mode"] == "server"
    assert shown["plan"]["steps"] == [{"name": "install", "commands": [["uv", "sync"]]}]
    assert shown["transitions"] == [
        {"from": None, "to": "production", "reason": "", "actor": "", "time": "2027-01-15T08:00:00Z"}
    ]
    assert "in a plan" not in answer.text


async def test_deployments_are_filtered(rig: Any) -> None:
    rig.world.deployment("FAILED")
    rig.world.deployment("PRODUCTION")
    path = "/v1/projects/shop/deployments"
    page = (await rig.call("GET", f"{path}?state=failed&environment=production&limit=5", token=rig.viewer)).json()
    assert [item["state"] for item in page["items"]] == ["failed"]
    assert (await rig.call("GET", f"{path}?state=nonsense", token=rig.viewer)).status_code == 400
    assert [d["number"] for d in (await rig.call("GET", f"{path}?number=2", token=rig.viewer)).json()["items"]] == [2]


async def test_cancelling(rig: Any) -> None:
    deployment, rested = rig.world.deployment("BUILDING"), rig.world.deployment("FAILED")
    assert (await rig.call("POST", f"/v1/deployments/{deployment.id}/cancel", token=rig.developer)).status_code == 200
    assert (await rig.call("POST", f"/v1/deployments/{rested.id}/cancel", token=rig.developer)).status_code == 409
    assert rig.world.audited() == ["deployment.cancel"]


async def test_redeploy_keeps_the_configuration_unless_todays_is_wanted(rig: Any) -> None:
    deployment = rig.world.deployment("FAILED")
    path = f"/v1/deployments/{deployment.id}/redeploy"
    assert (await rig.call("POST", path, token=rig.developer)).status_code == 202
    assert (await rig.call("POST", path, token=rig.developer, json={"current_configuration": True})).status_code == 202
    kept, today = rig.world.asked("CreateDeployment")
    assert (kept.HasField("configuration"), today.configuration.version) == (False, 9)
    assert {kept.trigger, today.trigger} == {types_pb2.TRIGGER_REDEPLOY}
    assert kept.deployment_id != today.deployment_id


async def test_what_was_not_built_cannot_be_deployed_again(rig: Any) -> None:
    deployment = rig.world.deployment("FAILED", artifact=False)
    answer = await rig.call("POST", f"/v1/deployments/{deployment.id}/redeploy", token=rig.developer)
    assert (answer.status_code, answer.json()["remedy"]) == (409, "deploy anew: shipoff deploy -p shop")


async def test_the_same_key_means_the_same_new_deployment(rig: Any) -> None:
    deployment = rig.world.deployment("FAILED")
    path, headers = f"/v1/deployments/{deployment.id}/redeploy", {"Idempotency-Key": "again"}
    ids = {(await rig.call("POST", path, token=rig.developer, headers=headers)).json()["id"] for _ in range(3)}
    assert len(ids) == 1


async def test_promote_takes_the_configuration_and_hosts_of_its_target(rig: Any) -> None:
    deployment = rig.world.deployment("PRODUCTION", environment="staging")
    answer = await rig.call(
        "POST", f"/v1/deployments/{deployment.id}/promote", token=rig.developer, json={"environment": "production"}
    )
    assert answer.status_code == 202
    asked = rig.world.asked("CreateDeployment")[0]
    assert (asked.environment, asked.trigger, list(asked.hosts)) == (
        "production",
        types_pb2.TRIGGER_PROMOTE,
        ["shop-production.localhost"],
    )
    assert asked.configuration.version == 9


async def test_rollback_goes_to_the_newest_that_served_before(rig: Any) -> None:
    rig.world.deployment("INACTIVE", served=True)
    wanted = rig.world.deployment("INACTIVE", served=True)
    rig.world.deployment("INACTIVE", served=False)
    rig.world.deployment("INACTIVE", served=True, artifact=False)
    rig.world.deployment("INACTIVE", served=True, environment="staging")
    rig.world.deployment("PRODUCTION", served=True)
    answer = await rig.call("POST", "/v1/projects/shop/rollback", token=rig.developer)
    assert answer.status_code == 202
    asked = rig.world.asked("CreateDeployment")[0]
    assert (asked.from_deployment_id, asked.trigger) == (wanted.id, types_pb2.TRIGGER_ROLLBACK)
    assert rig.world.audited() == ["deployment.rollback"]


async def test_a_repeated_rollback_with_a_key_does_not_go_back_twice(rig: Any) -> None:
    rig.world.deployment("INACTIVE", served=True)
    rig.world.deployment("PRODUCTION", served=True)
    headers = {"Idempotency-Key": "oops"}
    first = await rig.call("POST", "/v1/projects/shop/rollback", token=rig.developer, headers=headers)
    again = await rig.call("POST", "/v1/projects/shop/rollback", token=rig.developer, headers=headers)
    assert first.json()["id"] == again.json()["id"]
    assert len(rig.world.asked("CreateDeployment")) == 1


async def test_rollback_to_a_number_or_an_id(rig: Any) -> None:
    first = rig.world.deployment("INACTIVE", served=True)
    staging = rig.world.deployment("INACTIVE", served=True, environment="staging")
    rig.world.deployment("PRODUCTION", served=True)
    for to in (1, "1", first.id):
        answer = await rig.call("POST", "/v1/projects/shop/rollback", token=rig.developer, json={"to": to})
        assert answer.status_code == 202
    assert {asked.from_deployment_id for asked in rig.world.asked("CreateDeployment")} == {first.id}
    for to, status in [(99, 404), (new_id(), 404), ("nonsense", 404), (staging.number, 400), (0, 400), ("²", 404)]:
        answer = await rig.call("POST", "/v1/projects/shop/rollback", token=rig.developer, json={"to": to})
        assert (to, answer.status_code) == (to, status)


async def test_rollback_with_nothing_before(rig: Any) -> None:
    rig.world.deployment("PRODUCTION", served=True)
    assert (await rig.call("POST", "/v1/projects/shop/rollback", token=rig.developer)).status_code == 409


async def test_status_of_a_server_and_of_a_static_site(rig: Any) -> None:
    empty = (await rig.call("GET", "/v1/projects/shop/status", token=rig.viewer)).json()
    assert (empty["live"], empty["latest"], empty["workload"]) == (None, None, None)
    live = rig.world.deployment("PRODUCTION")
    failed = rig.world.deployment("FAILED")
    static = (await rig.call("GET", "/v1/projects/shop/status", token=rig.viewer)).json()
    assert (static["live"]["id"], static["latest"]["id"], static["workload"]) == (live.id, failed.id, None)
    assert static["urls"] == ["http://shop.localhost:8080"]
    rig.world.workloads.add(live.id)
    server = (await rig.call("GET", "/v1/projects/shop/status", token=rig.viewer)).json()
    assert (server["workload"]["phase"], server["workload"]["replicas"]) == ("ready", 1)


async def test_scaling_keeps_the_other_settings_and_reaches_what_is_live(rig: Any) -> None:
    rig.project.run.CopyFrom(types_pb2.RunSettings(replicas=1, health_path="/up"))
    live = rig.world.deployment("PRODUCTION")
    rig.world.workloads.add(live.id)
    answer = await rig.call("POST", "/v1/projects/shop/scale", token=rig.developer, json={"replicas": 3})
    assert answer.json() == {"environment": "production", "replicas": 3, "deployment_id": live.id}
    run = rig.world.asked("UpdateProject")[0].run
    assert (run.replicas, run.health_path) == (3, "/up")
    assert rig.world.asked("ScaleDeployment")[0].replicas == 3
    assert rig.world.audited() == ["project.scale"]


async def test_scaling_beyond_the_machine_is_refused_and_changes_no_setting(rig: Any) -> None:
    live = rig.world.deployment("PRODUCTION")
    rig.world.workloads.add(live.id)
    answer = await rig.call("POST", "/v1/projects/shop/scale", token=rig.developer, json={"replicas": 60})
    assert (answer.status_code, answer.json()["field"]) == (409, "replicas")
    assert rig.world.asked("UpdateProject") == []


async def test_logs_are_read_in_pages(rig: Any) -> None:
    deployment = rig.world.deployment("FAILED")
    await rig.world.write("one", "two", "three")
    path = f"/v1/deployments/{deployment.id}/logs"
    page = (await rig.call("GET", f"{path}?after=1&limit=1&source=build", token=rig.viewer)).json()
    assert ([item["text"] for item in page["items"]], page["more"]) == (["two"], True)
    assert page["items"][0]["position"] == 2
    assert page["items"][0]["source"] == "build"
    asked = rig.world.asked("ReadLogs")[0]
    assert list(asked.sources) == [types_pb2.LOG_SOURCE_BUILD]


async def test_a_delivery_is_passed_on_as_it_came(rig: Any) -> None:
    body = json.dumps({"ref": "refs/heads/main", "ü": "x"}, ensure_ascii=False, indent=3).encode()
    headers = {"X-Hub-Signature-256": "sha256=" + "0" * 64, "X-GitHub-Event": "push", "X-GitHub-Delivery": "d-1"}
    first = await rig.call("POST", "/webhooks/github", content=body, headers=headers)
    again = await rig.call("POST", "/webhooks/github", content=body, headers=headers)
    assert (first.status_code, again.status_code) == (202, 200)
    assert (first.json()["repeated"], again.json()["repeated"]) == (False, True)
    asked = rig.world.asked("ReceiveWebhook")[0]
    assert (asked.body, asked.event, asked.delivery_id, asked.provider) == (body, "push", "d-1", "github")


@pytest.mark.parametrize("signature", [None, "", "sha1=" + "0" * 40, "sha256=" + "1" * 64])
async def test_a_delivery_without_the_right_signature_is_401(rig: Any, signature: str | None) -> None:
    headers = {"X-GitHub-Event": "push", "X-GitHub-Delivery": "d-1", "X-Hub-Signature": "sha1=" + "0" * 40}
    if signature is not None:
        headers["X-Hub-Signature-256"] = signature
    answer = await rig.call("POST", "/webhooks/github", content=b"{not json", headers=headers)
    assert answer.status_code == 401


def delivery(number: int) -> dict[str, str]:
    return {"X-Hub-Signature-256": "sha256=" + "0" * 64, "X-GitHub-Event": "push", "X-GitHub-Delivery": f"d-{number}"}


async def test_a_burst_of_deliveries_waits_in_line_and_none_is_refused(gateway_with: Any, eventually: Any) -> None:
    async with gateway_with(webhooks_at_once=4) as rig:
        rig.world.receipt.clear()
        sending = [
            asyncio.create_task(rig.call("POST", "/webhooks/github", content=b"{}", headers=delivery(number)))
            for number in range(300)
        ]
        await eventually(lambda: rig.world.receiving == 4)
        rig.world.receipt.set()
        answers = await asyncio.gather(*sending)
    assert {answer.status_code for answer in answers} == {202}
    assert len({request.delivery_id for request in rig.world.asked("ReceiveWebhook")}) == 300
    assert rig.world.most_received_at_once == 4


async def test_an_address_that_sends_deliveries_without_end_is_429(gateway_with: Any) -> None:
    async with gateway_with(webhook_burst=3, webhook_per_s=0.01) as rig:
        statuses = [
            (await rig.call("POST", "/webhooks/github", content=b"{}", headers=delivery(number))).status_code
            for number in range(5)
        ]
    assert statuses == [202, 202, 202, 429, 429]


async def test_an_audit_log_that_is_away_gets_another_try_and_does_not_undo_the_change(rig: Any) -> None:
    rig.world.audit_is_away = True
    with capture_logs() as logs:
        answer = await rig.call("PUT", "/v1/projects/shop/variables", token=rig.developer, json={"variables": {"A": "s3cret"}})
    assert answer.status_code == 200
    assert len({request.entry.id for request in rig.world.asked("RecordAudit")}) == 1
    assert len(rig.world.asked("RecordAudit")) == 3
    (lost,) = [entry for entry in logs if entry["event"] == "audit entry not stored"]
    assert (lost["action"], lost["detail"], lost["team_id"]) == ("variables.set", "production: A", rig.world.team_id)


@pytest.mark.parametrize("mode", [types_pb2.PLAN_MODE_STATIC, types_pb2.PLAN_MODE_SPA])
async def test_a_static_site_is_not_scaled_and_nothing_is_written(rig: Any, mode: Any) -> None:
    rig.world.deployment("PRODUCTION", served=True).plan.mode = mode
    answer = await rig.call("POST", "/v1/projects/shop/scale", token=rig.developer, json={"replicas": 3})
    assert (answer.status_code, "static site" in answer.json()["detail"]) == (409, True)
    assert rig.world.asked("UpdateProject") == rig.world.asked("ScaleDeployment") == []


async def test_a_text_of_the_wrong_form_is_told_in_words(rig: Any) -> None:
    answer = (await rig.call("GET", "/v1/projects/shop/status?environment=Bad%20One", token=rig.viewer)).json()
    assert answer["detail"] == "environment is not in the form it has to have"
    assert answer["remedy"].startswith("write small letters, digits and hyphens")
