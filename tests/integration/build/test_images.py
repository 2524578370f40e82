"""The example apps as images: built by BuildKit in a real engine, pushed to a real registry, started, and taken apart."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import os
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from neighbours.build import Yard, build_yard, files_of
from neighbours.engine import BUILDX, Engine, engine_folder, engine_running, missing
from neighbours.ports import free_port

from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.detector.server import DetectorServicer

WHY_NOT = missing()
# On CI the engine has to be there.
pytestmark = [
    pytest.mark.xdist_group("images"),
    # Two builds, a start and a download of every blob, on a machine that is busy with other tests.
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(WHY_NOT) and not os.environ.get("CI"), reason=WHY_NOT or "-"),
]
CANARY = "canary-4f1c9b7e2d"
VARIABLES = {"DATABASE_URL": f"postgres://app:{CANARY}-a@db/app", "API_TOKEN": f"{CANARY}-b"}
PROCFILE = "web: python3 -m http.server $PORT --bind $HOST\n"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """A Docker Engine, and a registry with base images."""
    assert not WHY_NOT, WHY_NOT
    with engine_running(engine_folder()) as running:
        yield running


@pytest.fixture
def image_settings(engine) -> dict[str, Any]:
    """The settings of a platform that builds images here."""
    tools, run = engine.base("tools"), engine.base("run")
    return {
        "executor": "buildkit",
        "buildx": str(BUILDX),
        "docker_host": engine.host,
        "registry": f"{engine.registry}/apps",
        "base_images": f"python={tools},python-run={run},node={tools},node-run={run},shell={run}",
        "registry_mirrors": f"docker.io/library={engine.registry}",
        "image_network": "host",
        "sbom_generator": "off",
    }


@pytest.fixture
async def yard(backing, redis_url, database_url_for, image_settings) -> AsyncIterator[Yard]:
    """A build service that builds images, with the real detector."""
    url = await database_url_for("build")
    options = {"database_url": url, "redis_url": redis_url, "objects_url": backing.objects_url}
    async with build_yard(backing.home, detector=DetectorServicer(), **options, **image_settings) as made:
        yield made


async def finished(yard: Yard, files: dict[str, Any], **options: Any) -> tuple[str, Any]:
    """Builds these files; the deployment and its outcome."""
    deployment = await yard.start(files, timeout_s=150, **options)
    return deployment, await yard.result(deployment, timeout_s=160)


async def built(yard: Yard, files: dict[str, Any], **options: Any) -> tuple[str, events_pb2.BuildSucceeded]:
    """The same, where it has to succeed."""
    deployment, result = await finished(yard, files, **options)
    assert isinstance(result, events_pb2.BuildSucceeded), f"{result}\n{await yard.text(deployment)}"
    return deployment, result


async def failed(yard: Yard, files: dict[str, Any], **options: Any) -> events_pb2.BuildFailed:
    """The same, where it has to fail."""
    deployment, result = await finished(yard, files, **options)
    assert isinstance(result, events_pb2.BuildFailed), await yard.text(deployment)
    return result


def layers_of(engine: Engine, result: events_pb2.BuildSucceeded) -> list[str]:
    """The image's layers by digest, the lowest first."""
    manifest, _ = engine.image(result.artifact.object_key)
    return [layer["digest"] for layer in manifest["layers"]]


def blobs_of(engine: Engine, reference: str) -> Iterator[bytes]:
    """Everything that the registry keeps of an image, attestations included, base layers left out; layers unpacked."""
    repository = reference.partition("@")[0]
    base = engine.base("run").removesuffix(":1")
    known = {layer["digest"] for layer in engine.manifest(f"{base}@1")["layers"]}
    top = engine.manifest(reference)
    yield json.dumps(top).encode()
    for one in top.get("manifests", ()):
        manifest = engine.manifest(f"{repository}@{one['digest']}")
        yield json.dumps(manifest).encode()
        for blob in (manifest["config"], *manifest["layers"]):
            if blob["digest"] not in known:
                data = engine.blob(f"{repository}@{blob['digest']}")
                yield gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data


def assert_no_canary(engine: Engine, reference: str) -> None:
    """No secret in any layer, configuration, history or attestation, plain or in base64."""
    needles = [CANARY.encode(), *(base64.b64encode(b"\0" * skip + CANARY.encode())[4:16] for skip in range(3))]
    seen = 0
    for blob in blobs_of(engine, reference):
        seen += len(blob)
        assert not any(needle in blob for needle in needles), reference
    assert seen > 1000


@asynccontextmanager
async def answering(engine: Engine, reference: str) -> AsyncIterator[str]:
    """The image's container, started; the address it answers at."""
    port = free_port()
    name = f"app-{uuid.uuid4().hex[:8]}"
    run = [
        "run",
        "--detach",
        "--rm",
        "--network",
        "host",
        "--name",
        name,
        "--env",
        f"PORT={port}",
        "--read-only",
        "--tmpfs",
        "/tmp",
        reference,
    ]
    await asyncio.to_thread(engine.run, *run)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await asyncio.to_thread(engine.run, "kill", name)


async def page(address: str) -> str:
    """The app's answer, once it gives one."""
    async with asyncio.timeout(60), httpx2.AsyncClient() as client:
        while True:
            try:
                answer = await client.get(address)
            except httpx2.TransportError:
                await asyncio.sleep(0.1)
                continue
            assert answer.status_code == 200, answer.text
            return answer.text


@pytest.mark.parametrize("name", ["hello-python", "fastapi-uv", "express"])
async def test_an_example_becomes_an_image_that_answers_and_holds_no_secret(yard, engine, name):
    files = files_of(name)
    _, result = await built(yard, files, variables=VARIABLES)
    artifact = result.artifact
    assert artifact.kind == types_pb2.ARTIFACT_KIND_IMAGE
    assert artifact.object_key == f"{engine.registry}/apps/{yard.project_id}@{artifact.digest}"
    manifest, configuration = engine.image(artifact.object_key)
    assert artifact.size_bytes == sum(layer["size"] for layer in manifest["layers"]) + manifest["config"]["size"]
    assert configuration["config"]["User"] == "10001:10001"
    assert configuration["config"]["Entrypoint"] == ["/usr/local/bin/shipoff-init", "--"]
    async with answering(engine, artifact.object_key) as address:
        assert await page(address)
    await asyncio.to_thread(assert_no_canary, engine, artifact.object_key)

    main = next(path for path in ("app.py", "main.py", "server.js") if path in files)
    comment = "//" if main.endswith(".js") else "#"
    changed = {**files, main: files[main] + f"\n{comment} one more line\n".encode()}
    again, second = await built(yard, changed, variables=VARIABLES)
    before, after = layers_of(engine, result), layers_of(engine, second)
    assert before[:-2] == after[:-2]
    assert len([digest for digest in after if digest not in before]) == 1
    assert re.search(r"^  cached: (npm ci|uv pip install)", await yard.text(again), re.MULTILINE)


@pytest.mark.parametrize("name", ["vite-react", "static-site"])
async def test_pages_are_files_for_the_edge_under_either_executor(yard, name):
    _, result = await built(yard, files_of(name), variables=VARIABLES)
    assert result.artifact.kind == types_pb2.ARTIFACT_KIND_STATIC
    files = await yard.files(result.artifact)
    assert b"<html" in files["index.html"]
    assert not any(path.startswith(("node_modules", "src/")) for path in files)
    assert not any(CANARY.encode() in content for content in files.values())


async def test_only_the_output_directory_is_taken_and_one_that_is_missing_is_told_with_those_that_are_there(yard):
    beside = "mkfifo pipe; ln -s /etc/passwd link; mkdir -p 'my site'; echo '<html>' > 'my site/index.html'"
    folder = "it's a $web"
    source = {f"{folder}/app.json": "{}"}

    def settings(output: str) -> types_pb2.BuildSettings:
        return types_pb2.BuildSettings(root_directory=folder, build_command=beside, output_directory=output)

    _, result = await built(yard, source, settings=settings("my site"))
    assert await yard.files(result.artifact) == {"index.html": b"<html>\n"}
    refused = await failed(yard, source, settings=settings("dist"))
    assert refused.failure == events_pb2.BUILD_FAILURE_ARTIFACT
    assert "no folder 'dist'; folders with an index.html: my site." in refused.reason


async def test_the_repository_s_own_dockerfile_is_used_with_secrets_as_mounts_and_mirrored_images(yard, engine):
    dockerfile = (
        "FROM run:1\n"
        "COPY page /site/\n"
        "WORKDIR /site\n"
        f"RUN --mount=type=secret,id=API_TOKEN,env=TOKEN test ${{#TOKEN}} = {len(VARIABLES['API_TOKEN'])}\n"
        "USER 10001\n"
        'CMD ["sh", "-c", "exec python3 -m http.server $PORT"]\n'
    )
    files = {"Dockerfile": dockerfile, "page": "made by its own Dockerfile"}
    deployment, result = await built(yard, files, variables=VARIABLES)
    assert result.plan.provider == "docker"
    async with answering(engine, result.artifact.object_key) as address:
        assert await page(f"{address}/page") == "made by its own Dockerfile"
    assert "warning: the image may run as root" not in await yard.text(deployment)


async def test_a_mistake_of_the_dockerfile_is_told_with_its_line_and_buildkit_s_words(yard):
    wrong = {"Dockerfile": "FROM run:1\nFROB everything\n"}
    result = await failed(yard, wrong)
    assert result.failure == events_pb2.BUILD_FAILURE_PLAN
    assert result.reason == "Dockerfile, line 2 `FROB everything`: unknown instruction: FROB (did you mean FROM?)"
    missing = {"Dockerfile": "FROM run:1\nCOPY nowhere /x\n"}
    result = await failed(yard, missing)
    assert result.failure == events_pb2.BUILD_FAILURE_COMMAND
    assert "COPY nowhere /x" in result.reason
    assert "not found" in result.reason


async def test_a_secret_asked_for_as_a_build_argument_is_refused(yard):
    files = {"Dockerfile": "FROM run:1\nARG API_TOKEN\nRUN true\n"}
    result = await failed(yard, files, variables=VARIABLES)
    assert result.failure == events_pb2.BUILD_FAILURE_PLAN
    assert "line 2" in result.reason
    assert "--mount=type=secret,id=API_TOKEN" in result.reason


async def test_a_step_sees_its_secrets_and_a_changed_one_runs_it_again(yard, engine):
    settings = types_pb2.BuildSettings(root_directory="my app", build_command="echo seen ${#API_TOKEN} $API_TOKEN")
    source = {"my app/Procfile": PROCFILE}
    first, one = await built(yard, source, variables=VARIABLES, settings=settings)
    same, _ = await built(yard, source, variables=VARIABLES, settings=settings)
    changed, _ = await built(yard, source, variables={**VARIABLES, "API_TOKEN": "longer-than-it-was-before"}, settings=settings)
    assert f"seen {len(VARIABLES['API_TOKEN'])} ***" in await yard.text(first)
    assert "cached: echo seen" in await yard.text(same)
    assert "seen 25 ***" in await yard.text(changed)
    await asyncio.to_thread(assert_no_canary, engine, one.artifact.object_key)


async def test_a_failing_step_is_named_with_its_command(yard):
    settings = types_pb2.BuildSettings(build_command="echo the reason >&2; exit 3")
    result = await failed(yard, {"Procfile": PROCFILE}, settings=settings)
    assert result.failure == events_pb2.BUILD_FAILURE_COMMAND
    assert (result.step, result.reason) == ("build", "`echo the reason >&2; exit 3` exited with code 3")
    assert "the reason" in await yard.text(result.deployment_id)


@pytest.mark.parametrize(
    ("end", "failure"),
    [("cancel", events_pb2.BUILD_FAILURE_CANCELLED), ("kill the builder", events_pb2.BUILD_FAILURE_BUILDER_LOST)],
)
async def test_what_runs_in_buildkit_ends_with_its_build(yard, eventually, end, failure):
    mark = f"7{uuid.uuid4().int % 10**8}"
    settings = types_pb2.BuildSettings(build_command=f"sleep {mark}")
    deployment = await yard.start({"Procfile": PROCFILE}, timeout_s=150, settings=settings)

    def sleepers() -> list[list[str]]:
        found = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
        return [words for words in found if words[:2] == ["sleep", mark]]

    async with asyncio.timeout(100):
        while not sleepers():
            assert not await yard.results(deployment)
            await asyncio.sleep(0.1)
    if end == "cancel":
        await yard.cancel(deployment)
    else:
        for builder in yard.builders():
            builder.kill()
    result = await yard.result(deployment, timeout_s=90)
    assert isinstance(result, events_pb2.BuildFailed)
    assert result.failure == failure
    await eventually(lambda: not sleepers(), timeout_s=60)


class TestWithoutABaseImage:
    """A platform whose base images are not where it looks."""

    @pytest.fixture
    def image_settings(self, engine, image_settings) -> dict[str, Any]:
        return {**image_settings, "base_images": f"shell={engine.registry}/nowhere:1"}

    async def test_the_reason_names_the_image_and_the_settings(self, yard):
        result = await failed(yard, {"Procfile": PROCFILE})
        assert result.failure == events_pb2.BUILD_FAILURE_PLATFORM
        assert "/nowhere:1" in result.reason
        assert "SHIPOFF_BUILD_BASE_IMAGES" in result.reason


class TestWithoutAnEngine:
    """A platform whose engine is away."""

    @pytest.fixture
    def image_settings(self, image_settings, tmp_path: Path) -> dict[str, Any]:
        return {**image_settings, "docker_host": f"unix://{tmp_path}/away.sock"}

    async def test_the_reason_says_so(self, yard, tmp_path):
        result = await failed(yard, {"Procfile": PROCFILE})
        assert result.failure == events_pb2.BUILD_FAILURE_PLATFORM
        assert "away.sock" in result.reason


class TestWithAScanner:
    """A platform that has images' packages listed."""

    @pytest.fixture
    def image_settings(self, engine, image_settings) -> dict[str, Any]:
        return {**image_settings, "sbom_generator": engine.base("scanner")}

    async def test_an_image_carries_its_provenance_and_its_list_of_packages(self, yard, engine):
        _, result = await built(yard, {"Procfile": PROCFILE})
        text = b"\n".join(await asyncio.to_thread(lambda: list(blobs_of(engine, result.artifact.object_key)))).decode(
            errors="replace"
        )
        assert "https://slsa.dev/provenance/" in text
        assert "https://spdx.dev/Document" in text


class TestForTwoPlatforms:
    """A platform whose images run on two kinds of machine."""

    @pytest.fixture
    def image_settings(self, image_settings) -> dict[str, Any]:
        return {**image_settings, "platforms": "linux/amd64,linux/arm64"}

    async def test_one_reference_stands_for_both(self, yard, engine):
        files = {"Dockerfile": 'FROM scratch\nCOPY page /page\nCMD ["/page"]\n', "page": "x"}
        deployment, result = await built(yard, files)
        listed = (await asyncio.to_thread(engine.manifest, result.artifact.object_key))["manifests"]
        assert {one["platform"]["architecture"] for one in listed} >= {"amd64", "arm64"}
        assert "warning: the image may run as root" in await yard.text(deployment)
