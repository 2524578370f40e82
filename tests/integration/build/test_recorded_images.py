"""Which images a builder may record as its attempt's artifact."""

from __future__ import annotations

from typing import Any

import pytest

from shipoff.common.errors import InvalidInput
from shipoff.common.rpc import channel
from shipoff.contracts.build.v1 import build_pb2, build_pb2_grpc
from shipoff.contracts.types.v1 import types_pb2

DIGEST = "sha256:" + "a" * 64


async def recorded(yard, token: str, **fields: Any) -> types_pb2.Artifact:
    """BuilderService.RecordImage."""
    artifact = types_pb2.Artifact(**{"kind": types_pb2.ARTIFACT_KIND_IMAGE, "digest": DIGEST, "size_bytes": 5, **fields})
    async with channel(yard.settings.builder_address) as connection:
        stub = build_pb2_grpc.BuilderServiceStub(connection)
        answer = await stub.RecordImage(
            build_pb2.RecordImageRequest(artifact=artifact), metadata=(("shipoff-build-token", token),), timeout=10
        )
    return answer.artifact


class TestWithARegistry:
    """A platform that builds images."""

    @pytest.fixture
    def build_settings(self) -> dict[str, object]:
        return {"executor": "buildkit", "registry": "registry.example/apps"}

    async def test_an_image_of_the_project_s_own_repository_is_the_attempt_s_artifact(self, yard):
        async with yard.known_attempt() as (_, token):
            reference = f"registry.example/apps/{yard.project_id}@{DIGEST}"
            assert (await recorded(yard, token, object_key=reference)).object_key == reference

    @pytest.mark.parametrize(
        "reference",
        [
            "registry.example/apps/somebody-else@{digest}",
            "elsewhere.example/apps/{project}@{digest}",
            "registry.example/apps/{project}:latest",
            "registry.example/apps/{project}@sha256:" + "b" * 64,
        ],
    )
    async def test_any_other_image_is_refused(self, yard, reference):
        async with yard.known_attempt() as (_, token):
            with pytest.raises(InvalidInput, match="repository"):
                await recorded(yard, token, object_key=reference.format(project=yard.project_id, digest=DIGEST))

    async def test_an_archive_is_no_image(self, yard):
        async with yard.known_attempt() as (_, token):
            with pytest.raises(InvalidInput):
                await recorded(yard, token, kind=types_pb2.ARTIFACT_KIND_APP)


async def test_a_platform_that_builds_natively_records_no_image(yard):
    async with yard.known_attempt() as (_, token):
        with pytest.raises(InvalidInput, match="repository"):
            await recorded(yard, token, object_key=f"/{yard.project_id}@{DIGEST}")
