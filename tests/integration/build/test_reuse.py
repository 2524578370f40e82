"""What was built before just as it would be built now is not built again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from neighbours.build import plan_of

from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2

DIGEST = "sha256:" + "a" * 64


def source(command: str = "date +%N > made.txt", **fields: Any) -> dict[str, str]:
    """A source whose every build leaves something else; its plan has the source's digest, as the detector's have."""
    plan = json.loads(plan_of(command, sourceDigest=DIGEST, **fields))
    plan["steps"][0]["secrets"] = ["TOKEN"]
    return {"app.json": json.dumps(plan)}


async def built(yard, files: dict[str, str], **options: Any) -> tuple[str, events_pb2.BuildSucceeded]:
    deployment = await yard.start(files, **options)
    result = await yard.result(deployment)
    assert isinstance(result, events_pb2.BuildSucceeded), result
    return deployment, result


async def test_the_artifact_is_used_again_and_the_log_says_whose_it_is(yard):
    first, one = await built(yard, source(), variables={"TOKEN": "t", "OTHER": "o"})
    second, two = await built(yard, source(), variables={"TOKEN": "t", "OTHER": "another, which no step sees"})
    assert two.artifact == one.artifact
    assert two.plan == one.plan
    assert f"▸ unchanged: the same was built for deployment {first}" in await yard.text(second)
    # It says nothing of what builds of the project need.
    assert two.usage == types_pb2.Usage()
    # And the next one finds it too, as that one's.
    third, _ = await built(yard, source(), variables={"TOKEN": "t"})
    assert f"was built for deployment {second}" in await yard.text(third)


@pytest.mark.parametrize(
    ("files", "options"),
    [
        (source("date +%N > made.txt; true"), {"variables": {"TOKEN": "t"}}),
        (source(), {"variables": {"TOKEN": "another"}}),
        (source(), {"variables": {"TOKEN": "t"}, "no_cache": True}),
        (source(publicBuildEnv=["VITE_X"]), {"variables": {"TOKEN": "t"}}),
    ],
    ids=["another plan", "another variable that a step sees", "asked for", "another public variable"],
)
async def test_what_would_be_built_otherwise_is_built(yard, files: dict[str, str], options: dict[str, Any]):
    _, one = await built(yard, source(), variables={"TOKEN": "t"})
    deployment, two = await built(yard, files, **options)
    assert two.artifact != one.artifact
    assert "▸ unchanged" not in await yard.text(deployment)


async def test_an_artifact_that_is_gone_is_built_again(yard):
    _, one = await built(yard, source())
    await yard.objects.delete(one.artifact.object_key)
    _, two = await built(yard, source())
    assert await yard.files(two.artifact)


async def test_a_failed_build_is_none_to_go_back_to(yard):
    first = await yard.start(source("exit 3"))
    assert isinstance(await yard.result(first), events_pb2.BuildFailed)
    second = await yard.start(source("exit 3"))
    assert isinstance(await yard.result(second), events_pb2.BuildFailed)
    assert "▸ unchanged" not in await yard.text(second)


async def test_another_project_s_build_is_not_looked_at(yard):
    _, one = await built(yard, source())
    yard.project_id = "019ab000-0000-7000-8000-000000000001"
    _, two = await built(yard, source())
    assert two.artifact.object_key != one.artifact.object_key
