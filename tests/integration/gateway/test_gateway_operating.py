"""Restart, pause and resume of what is live."""

from __future__ import annotations

from typing import Any

import pytest

from shipoff.contracts.types.v1 import types_pb2


async def test_a_restart_reaches_what_is_live(rig: Any) -> None:
    live = rig.world.deployment("PRODUCTION")
    answer = await rig.call("POST", "/v1/projects/shop/restart", token=rig.developer, json={})
    assert answer.json() == {"environment": "production", "deployment_id": live.id, "paused": False}
    assert [one.deployment_id for one in rig.world.asked("RestartWorkload")] == [live.id]
    assert rig.world.audited() == ["project.restart"]


@pytest.mark.parametrize(("action", "paused"), [("pause", True), ("resume", False)])
async def test_pausing_and_resuming_reach_what_is_live(rig: Any, action: str, paused: bool) -> None:
    live = rig.world.deployment("PRODUCTION", environment="staging")
    body = {"environment": "staging"}
    answer = await rig.call("POST", f"/v1/projects/shop/{action}", token=rig.developer, json=body)
    assert answer.json() == {"environment": "staging", "deployment_id": live.id, "paused": paused}
    assert [(one.deployment_id, one.paused) for one in rig.world.asked("PauseDeployment")] == [(live.id, paused)]
    assert rig.world.audited() == [f"project.{action}"]


async def test_what_is_paused_is_not_restarted(rig: Any) -> None:
    rig.world.deployment("PRODUCTION", paused=True)
    answer = await rig.call("POST", "/v1/projects/shop/restart", token=rig.developer, json={})
    assert (answer.status_code, answer.json()["remedy"]) == (409, "resume it: shipoff resume")
    assert not rig.world.asked("RestartWorkload")


@pytest.mark.parametrize("action", ["restart", "pause", "resume"])
async def test_nothing_live_and_a_static_site_have_no_instances(rig: Any, action: str) -> None:
    path = f"/v1/projects/shop/{action}"
    assert (await rig.call("POST", path, token=rig.developer, json={})).status_code == 404
    rig.world.deployment("PRODUCTION", plan=types_pb2.Plan(mode=types_pb2.PLAN_MODE_STATIC))
    assert (await rig.call("POST", path, token=rig.developer, json={})).status_code == 409
    assert rig.world.audited() == []
