"""Plans over REST, from the real detector."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from golden.snapshots import EXAMPLES, PLANS, examples, snapshot_of

from shipoff.contracts.types.v1 import types_pb2

_FLASK = {"app.py": "from flask import Flask\napp = Flask(__name__)\n", "requirements.txt": "flask\ngunicorn\n"}


def _body(files: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"paths": sorted(files), "contents": files, **more}


@pytest.mark.parametrize("name", examples())
async def test_the_answer_is_the_canonical_plan(shared_rig: Any, name: str) -> None:
    snapshot = snapshot_of(EXAMPLES / name)
    contents = {path: data.decode() for path, data in snapshot.contents.items()}
    answer = await shared_rig.call("POST", "/v1/detect", token=shared_rig.loner, json=_body(contents))
    assert answer.status_code == 200
    plan = json.dumps(answer.json()["plan"], sort_keys=True, indent=2, ensure_ascii=False) + "\n"
    assert plan == (PLANS / f"{name}.json").read_text()


async def test_a_question_names_the_setting_and_what_it_can_be(shared_rig: Any) -> None:
    files = {"package.json": '{"dependencies": {"next": "16"}}', "yarn.lock": "", "package-lock.json": "{}"}
    asked = (await shared_rig.call("POST", "/v1/detect", token=shared_rig.viewer, json=_body(files))).json()
    assert asked["plan"] is None
    assert asked["problem"]["field"] == "package_manager"
    assert [choice["value"] for choice in asked["problem"]["choices"]] == ["npm", "yarn"]
    body = _body(files, build={"package_manager": "yarn"})
    answered = (await shared_rig.call("POST", "/v1/detect", token=shared_rig.viewer, json=body)).json()
    assert answered["plan"]["package_manager"]["name"] == "yarn"


async def test_a_projects_settings_count_and_given_ones_come_before_them(rig: Any) -> None:
    rig.project.build.CopyFrom(types_pb2.BuildSettings(start_command="python one.py", build_command="make"))
    body = _body(_FLASK, project="shop", build={"start_command": "python two.py"}, source_digest="sha256:" + "0" * 64)
    plan = (await rig.call("POST", "/v1/detect", token=rig.viewer, json=body)).json()["plan"]
    assert plan["processes"] == {"web": [".venv/bin/python", "two.py"]}
    assert plan["steps"][-1]["commands"] == [["make"]]
    assert plan["source_digest"] == "sha256:" + "0" * 64
    assert (await rig.call("POST", "/v1/detect", token=rig.stranger, json=body)).status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"paths": ["a"], "more": 1}, 400),
        ({"contents": {}}, 400),
        ({"paths": [""]}, 400),
        ({"paths": [], "source_digest": "x"}, 400),
    ],
)
async def test_a_wrong_snapshot_is_refused(shared_rig: Any, body: dict[str, Any], status: int) -> None:
    assert (await shared_rig.call("POST", "/v1/detect", token=shared_rig.viewer, json=body)).status_code == status


async def test_a_snapshot_may_be_larger_than_other_bodies_but_not_endless(gateway_with: Callable[..., Any]) -> None:
    async with gateway_with(json_limit_bytes=1000, snapshot_limit_bytes=20_000) as rig:
        fits = _body({"index.html": "x" * 10_000})
        assert (await rig.call("POST", "/v1/detect", token=rig.viewer, json=fits)).status_code == 200
        large = _body({"index.html": "x" * 30_000})
        assert (await rig.call("POST", "/v1/detect", token=rig.viewer, json=large)).status_code == 413
