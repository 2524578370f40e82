"""Who did something is shown by e-mail address, wherever a deployment is shown."""

from __future__ import annotations

import json
from typing import Any

from shipoff.common.ids import new_id
from shipoff.contracts.orchestrator.v1 import orchestrator_pb2


def cancelled_by(rig: Any, user_id: str) -> orchestrator_pb2.Deployment:
    made = rig.world.deployment("INACTIVE", requested_by=user_id, reason=f"cancelled by {user_id}")
    made.transitions.append(
        orchestrator_pb2.Transition(from_state=1, to_state=made.state, actor=user_id, reason=f"cancelled by {user_id}")
    )
    return made


def ids_in(answer: Any, user_id: str) -> bool:
    return user_id in json.dumps(answer)


async def test_everything_that_shows_a_deployment_names_the_person(rig: Any) -> None:
    user_id = rig.world.tokens[rig.developer].user.id
    made = cancelled_by(rig, user_id)
    for path in (
        f"/v1/deployments/{made.id}",
        f"/v1/deployments/{made.id}/timeline",
        "/v1/projects/shop/deployments",
        "/v1/projects/shop/status",
    ):
        answer = (await rig.call("GET", path, token=rig.viewer)).json()
        assert "cancelled by developer@example.com" in json.dumps(answer), path
        assert not ids_in(answer, user_id), path
    shown = (await rig.call("GET", f"/v1/deployments/{made.id}", token=rig.viewer)).json()
    assert (shown["requested_by"], shown["transitions"][0]["actor"]) == ("developer@example.com", "developer@example.com")
    assert shown["id"] == made.id, "other ids stay"
    assert len(rig.world.asked("ListMembers")) == 1, "asked once for all of them"


async def test_the_log_stream_names_the_person(rig: Any) -> None:
    user_id = rig.world.tokens[rig.developer].user.id
    made = cancelled_by(rig, user_id)
    async with rig.follow(f"/v1/deployments/{made.id}/logs", token=rig.viewer) as stream:
        message = json.loads(await stream.recv())
    assert message["deployment"]["reason"] == "cancelled by developer@example.com"


async def test_who_left_the_team_stays_an_id_and_identity_may_be_away(rig: Any) -> None:
    gone = new_id()
    made = cancelled_by(rig, gone)
    for away in (False, True):
        rig.world.identity_lists_nobody = away
        answer = await rig.call("GET", f"/v1/deployments/{made.id}", token=rig.viewer)
        assert (answer.status_code, answer.json()["reason"]) == (200, f"cancelled by {gone}")
