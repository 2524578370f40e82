"""Builders that die, services that restart under them, Redis that is away: no attempt is lost, none goes live by half."""

from __future__ import annotations

import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
from neighbours.build import Result, Yard, build_yard, marked, plan_of
from neighbours.git_server import GitServer, git_serving

from shipoff.common.config import address
from shipoff.common.errors import DataLoss, Unauthenticated
from shipoff.common.rpc import channel
from shipoff.contracts.build.v1 import build_pb2, build_pb2_grpc
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2


@pytest.fixture
def git_server(tmp_path) -> Iterator[GitServer]:
    """Repositories over smart HTTP."""
    with git_serving(tmp_path) as server:
        yield server


@pytest.fixture
async def yard(backing, redis_url, database_url_for, git_server) -> AsyncIterator[Yard]:
    """A running build service; its detector takes the plan from the source's app.json."""
    url = await database_url_for("build")
    async with build_yard(
        backing.home,
        database_url=url,
        redis_url=redis_url,
        objects_url=backing.objects_url,
        allow_hosts=git_server.host,
        lease_s=5,
    ) as made:
        yield made


async def builder_of(yard: Yard, eventually) -> psutil.Process:
    """The only builder."""
    return (await eventually(yard.builders))[0]


async def nothing_left(yard: Yard, deployment: str, eventually) -> None:
    """No process, no file, no artifact of the deployment's."""
    await eventually(lambda: not marked(deployment) and not yard.builders() and not yard.leftovers())
    assert not list((yard.home / "objects" / "artifacts" / yard.project_id).glob("*"))


async def is_lost(yard: Yard, deployment: str) -> None:
    """The attempt failed once, as a loss that is worth another try."""
    result = await yard.result(deployment, timeout_s=60)
    assert isinstance(result, events_pb2.BuildFailed)
    assert result.failure == events_pb2.BUILD_FAILURE_BUILDER_LOST
    assert len(await yard.results(deployment)) == 1


async def results_of(yard: Yard, deployment: str, count: int, eventually) -> list[Result]:
    """The outcomes, once there are that many."""

    async def enough() -> list[Result]:
        results = await yard.results(deployment)
        return results if len(results) >= count else []

    return await eventually(enough, timeout_s=30)


async def test_a_builder_killed_while_it_clones_is_lost_at_once(yard, git_server, eventually):
    git_server.push("app", {"app.json": plan_of()})
    git_server.hold.set()
    deployment = await yard.start(types_pb2.Source(git=types_pb2.GitSource(url=git_server.url("app"))))
    await eventually(lambda: git_server.requests)
    (await builder_of(yard, eventually)).kill()
    await is_lost(yard, deployment)
    git_server.hold.clear()
    await nothing_left(yard, deployment, eventually)


@pytest.mark.parametrize("step", ["install", "build"])
async def test_a_builder_killed_in_a_step_leaves_no_process_behind(yard, eventually, step):
    command = {"argv": ["/bin/sh", "-c", "setsid sleep 600 & echo here; sleep 600"]}
    deployment = await yard.start({"app.json": plan_of(steps=[{"name": step, "commands": [command]}])})
    # Until a builder has started and come so far may take long on a busy machine; what follows its death may not.
    await eventually(lambda: len(marked(deployment)) >= 3, timeout_s=60)
    (await builder_of(yard, eventually)).kill()
    await is_lost(yard, deployment)
    await nothing_left(yard, deployment, eventually)


@pytest.mark.timeout(300)
async def test_a_builder_killed_in_the_upload_leaves_no_artifact(yard, eventually):
    deployment = await yard.start({"app.json": plan_of("head -c 300000000 /dev/urandom > noise")})
    builder = await builder_of(yard, eventually)
    incoming = yard.home / "objects" / "incoming"
    await eventually(lambda: [path for path in incoming.rglob("*") if path.is_file()], timeout_s=180)
    builder.kill()
    await is_lost(yard, deployment)
    await nothing_left(yard, deployment, eventually)


async def test_the_next_attempt_succeeds_after_a_loss(yard, eventually):
    request = await yard.request({"app.json": plan_of("sleep 600")})
    await yard.send(request)
    await eventually(lambda: marked(request.deployment_id))
    (await builder_of(yard, eventually)).kill()
    await is_lost(yard, request.deployment_id)
    await yard.start({"app.json": plan_of("true")}, deployment_id=request.deployment_id, attempt=2)
    _, second = await results_of(yard, request.deployment_id, 2, eventually)
    assert isinstance(second, events_pb2.BuildSucceeded)
    assert second.attempt == 2


async def test_a_higher_attempt_ends_a_lower_one(yard, eventually):
    deployment = await yard.start({"app.json": plan_of("echo first; sleep 600")})
    await eventually(lambda: marked(deployment))
    await yard.start({"app.json": plan_of("echo second")}, deployment_id=deployment, attempt=2)
    first, second = await results_of(yard, deployment, 2, eventually)
    assert (first.attempt, first.failure) == (1, events_pb2.BUILD_FAILURE_CANCELLED)
    assert isinstance(second, events_pb2.BuildSucceeded)
    await eventually(lambda: not marked(deployment) and not yard.leftovers())


async def test_a_cancel_stops_everything_within_five_seconds(yard, eventually):
    deployment = await yard.start({"app.json": plan_of("trap '' TERM; setsid sleep 600 & sleep 600")})
    await eventually(lambda: len(marked(deployment)) >= 2)
    await yard.cancel(deployment)
    await yard.cancel(deployment)
    result = await yard.result(deployment, timeout_s=5)
    assert result.failure == events_pb2.BUILD_FAILURE_CANCELLED
    assert not marked(deployment)
    assert len(await yard.results(deployment)) == 1


async def test_a_builder_that_does_not_listen_is_cancelled_all_the_same(yard, eventually):
    deployment = await yard.start({"app.json": plan_of("sleep 600")})
    await eventually(lambda: marked(deployment))
    (await builder_of(yard, eventually)).send_signal(signal.SIGSTOP)
    await yard.cancel(deployment)
    result = await yard.result(deployment, timeout_s=8)
    assert result.failure == events_pb2.BUILD_FAILURE_CANCELLED
    await nothing_left(yard, deployment, eventually)


async def test_a_builder_that_says_nothing_for_its_lease_is_lost(yard, eventually):
    deployment = await yard.start({"app.json": plan_of("sleep 600")})
    await eventually(lambda: marked(deployment))
    (await builder_of(yard, eventually)).send_signal(signal.SIGSTOP)
    result = await yard.result(deployment, timeout_s=15)
    assert result.failure == events_pb2.BUILD_FAILURE_BUILDER_LOST
    await nothing_left(yard, deployment, eventually)


async def test_a_build_goes_on_through_a_restart_of_the_service(yard, eventually):
    script = "i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo line $i; sleep 0.05; done"
    deployment = await yard.start({"app.json": plan_of(script)})
    await yard.until_said(deployment, "line 5")
    builder = (await builder_of(yard, eventually)).pid
    await yard.down()
    assert psutil.pid_exists(builder)
    await yard.up()
    result = await yard.result(deployment)
    assert isinstance(result, events_pb2.BuildSucceeded)
    lines = await yard.lines(deployment)
    assert [line.sequence for line in lines] == list(range(1, len(lines) + 1))
    assert [line.text for line in lines if line.channel] == [f"line {n}" for n in range(1, 61)]


async def test_a_build_goes_on_when_the_service_is_killed(yard, eventually):
    await yard.down()
    service = yard.spawn()
    try:
        script = "i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo line $i; sleep 0.05; done"
        request = await yard.request({"app.json": plan_of(script)})
        await eventually(lambda: Path(address("build").removeprefix("unix:")).exists(), timeout_s=20)
        await yard.send(request)
        await yard.until_said(request.deployment_id, "line 5")
    finally:
        service.kill()
        service.wait()
    await yard.up()
    result = await yard.result(request.deployment_id)
    assert isinstance(result, events_pb2.BuildSucceeded)
    # A batch that was on the stream but not yet recorded comes again, with the same sequences.
    lines = {line.sequence: line.text for line in await yard.lines(request.deployment_id) if line.channel}
    assert list(lines.values()) == [f"line {n}" for n in range(1, 61)]
    assert len(await yard.results(request.deployment_id)) == 1


async def test_a_platform_that_stops_for_good_takes_its_builders_along(yard, eventually):
    deployment = await yard.start({"app.json": plan_of("setsid sleep 600 & sleep 600")})
    await eventually(lambda: len(marked(deployment)) >= 2)
    await yard.down()
    yard.settings = yard.settings.model_copy(update={"keep_builders": False})
    await yard.up()
    await yard.down()
    assert not marked(deployment)
    assert not yard.builders()
    await yard.up()
    await is_lost(yard, deployment)


async def test_a_builder_that_died_while_the_service_was_down_is_found_lost(yard, eventually):
    deployment = await yard.start({"app.json": plan_of("sleep 600")})
    await eventually(lambda: marked(deployment))
    builder = await builder_of(yard, eventually)
    await yard.down()
    builder.kill()
    await yard.up()
    await is_lost(yard, deployment)
    await nothing_left(yard, deployment, eventually)


async def test_no_line_is_lost_while_redis_is_away(yard, backing, eventually):
    script = "i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo line $i; sleep 0.05; done"
    deployment = await yard.start({"app.json": plan_of(script)})
    await eventually(lambda: marked(deployment))
    await yard.until_said(deployment, "line 3")
    await backing.valkey.stop()
    await eventually(lambda: not marked(deployment), timeout_s=20)
    await backing.valkey.start()
    result = await yard.result(deployment)
    assert isinstance(result, events_pb2.BuildSucceeded)
    texts = [line.text for line in await yard.lines(deployment) if line.channel]
    assert list(dict.fromkeys(texts)) == [f"line {n}" for n in range(1, 41)]


async def test_an_upload_of_other_bytes_is_refused_and_nothing_kept(yard, eventually):
    artifact = types_pb2.Artifact(kind=types_pb2.ARTIFACT_KIND_APP, digest=f"sha256:{'0' * 64}", size_bytes=5)

    async def parts():
        yield build_pb2.UploadArtifactRequest(artifact=artifact)
        yield build_pb2.UploadArtifactRequest(chunk=b"other")

    async with yard.known_attempt() as (deployment, token), channel(yard.settings.builder_address) as connection:
        stub = build_pb2_grpc.BuilderServiceStub(connection)
        with pytest.raises(DataLoss):
            await stub.UploadArtifact(parts(), metadata=(("shipoff-build-token", token),))
        with pytest.raises(Unauthenticated):
            await stub.UploadArtifact(parts(), metadata=(("shipoff-build-token", "guessed"),))
    assert not list((yard.home / "objects" / "artifacts").rglob(f"*{'0' * 64}*"))
    assert not list((yard.home / "objects" / "incoming").glob(f"{deployment}*"))


async def test_a_work_folder_that_nobody_knows_is_collected(yard, eventually):
    stray = yard.home / "builds" / "work" / f"{uuid.uuid4()}-1"
    await yard.down()
    (stray / "tree" / "deep").mkdir(parents=True)
    (stray / "tree" / "file").write_text("x")
    await yard.up()
    await eventually(lambda: not stray.exists())
