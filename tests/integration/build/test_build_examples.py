"""The example apps, planned by the real detector, built with the real tools."""

from __future__ import annotations

import asyncio
import tarfile
from collections.abc import AsyncIterator

import pytest
from neighbours.build import Yard, build_yard, files_of

from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.detector.server import DetectorServicer


@pytest.fixture
async def yard(backing, redis_url, database_url_for) -> AsyncIterator[Yard]:
    """A running build service with the real detector."""
    url = await database_url_for("build")
    options = {"database_url": url, "redis_url": redis_url, "objects_url": backing.objects_url}
    async with build_yard(backing.home, detector=DetectorServicer(), **options) as made:
        yield made


async def built(yard: Yard, name: str) -> events_pb2.BuildSucceeded:
    """Builds an example."""
    deployment = await yard.start(files_of(name), timeout_s=150)
    result = await yard.result(deployment, timeout_s=160)
    assert isinstance(result, events_pb2.BuildSucceeded), f"{result}\n{await yard.text(deployment)}"
    return result


@pytest.mark.parametrize("name", ["hello-python", "fastapi-uv"])
async def test_a_python_app_runs_where_it_is_unpacked(yard, tmp_path, name):
    result = await built(yard, name)
    assert result.artifact.kind == types_pb2.ARTIFACT_KIND_APP
    archive = tmp_path / "a.tar.gz"
    await yard.objects.get_to_file(result.artifact.object_key, archive)
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "moved", filter="fully_trusted")  # noqa: S202 - our own build's
    python = tmp_path / "moved" / ".venv" / "bin" / "python"
    module = "flask" if name == "hello-python" else "fastapi"
    imported = await asyncio.create_subprocess_exec(python, "-c", f"import {module}", cwd=tmp_path / "moved")
    assert await imported.wait() == 0


async def test_a_python_app_brings_its_byte_code_and_two_builds_of_it_are_the_same_bytes(yard):
    first, second = [await built(yard, "hello-python") for _ in range(2)]
    assert first.artifact.digest == second.artifact.digest
    files = await yard.files(first.artifact)
    sources = {name for name in files if name.endswith(".py") and "/flask/" in name}
    compiled = {name for name in files if name.endswith(".pyc") and "/flask/" in name}
    assert sources
    assert len(compiled) == len(sources)
    # PEP 552: the second word of an unchecked hash is 1, and what follows is no time.
    assert all(files[name][4:8] == b"\1\0\0\0" for name in compiled)


@pytest.mark.usefixtures("node")
async def test_a_node_app_brings_its_modules(yard):
    result = await built(yard, "express")
    assert any(name.startswith("node_modules/express/") for name in await yard.files(result.artifact))


@pytest.mark.usefixtures("node")
async def test_a_bundled_site_is_its_pages(yard):
    result = await built(yard, "vite-react")
    assert result.artifact.kind == types_pb2.ARTIFACT_KIND_STATIC
    names = set(await yard.files(result.artifact))
    assert "index.html" in names
    assert not any(name.startswith(("node_modules", "src")) for name in names)


async def test_a_static_site_needs_no_step(yard):
    result = await built(yard, "static-site")
    assert "index.html" in await yard.files(result.artifact)
