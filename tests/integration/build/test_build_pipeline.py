"""Whole builds: a source goes in, an artifact and a log come out."""

from __future__ import annotations

import json
import threading

import pytest
from neighbours.build import marked, plan_of

from shipoff.common import sandbox
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2


async def test_an_uploaded_folder_becomes_an_artifact(yard, eventually):
    files = {"app.json": plan_of("echo hello > made.txt", "echo built"), "src/main.py": "print(1)\n"}
    deployment = await yard.start(files)
    result = await yard.result(deployment)
    assert isinstance(result, events_pb2.BuildSucceeded), result
    assert result.attempt == 1
    assert result.artifact.kind == types_pb2.ARTIFACT_KIND_APP
    assert result.artifact.object_key == f"artifacts/{yard.project_id}/{result.artifact.digest}.tar.gz"
    content = await yard.files(result.artifact)
    assert content["made.txt"] == b"hello\n"
    assert content["src/main.py"] == b"print(1)\n"
    assert result.usage.wall_s > 0
    assert result.usage.cpu_s > 0
    assert "built" in await yard.text(deployment)
    # Nothing of it is left.
    await eventually(lambda: not yard.builders() and not yard.leftovers() and not marked(deployment))


async def test_lines_are_numbered_without_holes_and_say_what_is_done(yard):
    deployment = await yard.start({"app.json": plan_of("seq 1 3000", "echo problem >&2")})
    await yard.result(deployment)
    lines = await yard.lines(deployment)
    assert [line.sequence for line in lines] == list(range(1, len(lines) + 1))
    assert [line.text for line in lines if line.channel == "stdout"] == [str(n) for n in range(1, 3001)]
    assert [line.text for line in lines if line.channel == "stderr"] == ["problem"]
    own = [line.text for line in lines if not line.channel]
    assert [text.split(":")[0] for text in own] == ["▸ unpack", "▸ plan", "▸ build", "▸ build", "▸ pack", "▸ upload"]


async def test_a_failed_command_names_itself_and_its_code(yard):
    deployment = await yard.start({"app.json": plan_of("echo before; exit 3", "echo never")})
    result = await yard.result(deployment)
    assert isinstance(result, events_pb2.BuildFailed)
    assert result.failure == events_pb2.BUILD_FAILURE_COMMAND
    assert result.step == "build"
    assert result.reason == "`echo before; exit 3` exited with code 3"
    text = await yard.text(deployment)
    assert "before" in text
    assert "never" not in text


async def test_the_same_source_gives_the_same_bytes(yard):
    files = {"app.json": plan_of("mkdir out; date +%N > /dev/null; echo x > out/x; ln -s out/x link"), "b": "b", "a/a": "a"}
    first = await yard.result(await yard.start(files))
    second = await yard.result(await yard.start(files))
    assert first.artifact.digest == second.artifact.digest


async def test_a_repository_is_cloned_at_a_branch_a_tag_and_a_commit(yard, git_server):
    old = git_server.push("app", {"app.json": plan_of("cat word"), "word": "one"})
    git_server.tag("app", "v1")
    new = git_server.push("app", {"word": "two"})
    side = git_server.push("app", {"word": "three"}, branch="feature/x;y$(id)")
    for ref, commit, expected in (
        ("", "", new),
        ("v1", "", old),
        ("feature/x;y$(id)", "", side),
        (old, "", old),
        ("main", old, old),
    ):
        source = types_pb2.Source(git=types_pb2.GitSource(url=git_server.url("app"), ref=ref, commit=commit))
        deployment = await yard.start(source)
        result = await yard.result(deployment)
        assert isinstance(result, events_pb2.BuildSucceeded), (ref, result, await yard.text(deployment))
        assert result.commit == expected
        assert not any(name.startswith(".git/") for name in await yard.files(result.artifact))


async def test_a_missing_branch_is_a_sentence(yard, git_server):
    git_server.push("app", {"app.json": plan_of()})
    source = types_pb2.Source(git=types_pb2.GitSource(url=git_server.url("app"), ref="nowhere"))
    result = await yard.result(await yard.start(source))
    assert result.failure == events_pb2.BUILD_FAILURE_SOURCE
    assert result.reason.startswith(f"cannot fetch nowhere of {git_server.url('app')}")


async def test_credentials_in_a_url_are_neither_used_nor_shown(yard, git_server):
    git_server.push("app", {"app.json": plan_of()})
    url = git_server.url("app").replace("http://", "http://user:hunter2hunter2@")
    deployment = await yard.start(types_pb2.Source(git=types_pb2.GitSource(url=url)))
    assert isinstance(await yard.result(deployment), events_pb2.BuildSucceeded)
    assert "hunter2" not in await yard.text(deployment)


@pytest.fixture
def asked(monkeypatch) -> list[bool]:
    """For each time that bubblewrap was looked for: whether everything else had to wait."""
    found: list[bool] = []

    def usable(mode: str) -> str:
        found.append(threading.current_thread() is threading.main_thread())
        return ""

    monkeypatch.setattr(sandbox, "usable", usable)
    return found


async def test_looking_for_the_sandbox_holds_up_nothing_else_of_the_process(asked, yard):
    assert asked == [False]


@pytest.mark.parametrize("build_settings", [{"sandbox": "off"}])
async def test_a_stray_interpreter_that_is_none_fails_no_build(yard):
    deployment = await yard.start({"app.json": plan_of("echo built"), ".venv/bin/python": "no program"})
    result = await yard.result(deployment)
    assert isinstance(result, events_pb2.BuildSucceeded), result


async def test_a_static_site_is_its_output_folder(yard):
    plan = plan_of("mkdir -p dist; echo hi > dist/index.html; echo k > dist/.env", mode="PLAN_MODE_SPA", outputDir="dist")
    result = await yard.result(await yard.start({"app.json": plan}))
    assert result.artifact.kind == types_pb2.ARTIFACT_KIND_STATIC
    assert await yard.files(result.artifact) == {"index.html": b"hi\n"}


async def test_a_wrong_output_folder_lists_the_right_ones(yard):
    plan = plan_of("mkdir -p public; echo hi > public/index.html", mode="PLAN_MODE_STATIC", outputDir="dist")
    result = await yard.result(await yard.start({"app.json": plan}))
    assert result.failure == events_pb2.BUILD_FAILURE_ARTIFACT
    assert "'dist'" in result.reason
    assert "public" in result.reason


async def test_a_step_runs_in_its_own_folder_and_in_no_other(yard):
    def plan(folder: str) -> str:
        commands = [{"argv": ["/bin/sh", "-c", "basename $PWD > place"]}]
        steps = [
            {"name": "install", "folder": ".", "commands": commands},
            {"name": "lib", "folder": folder, "commands": commands},
        ]
        return json.dumps({"provider": "shell", "mode": "PLAN_MODE_SERVER", "appRoot": "apps/web", "steps": steps})

    result = await yard.result(await yard.start({"app.json": plan("libs/one"), "libs/one/x": "", "apps/web/x": ""}))
    files = await yard.files(result.artifact)
    assert (files["place"], files["libs/one/place"]) == (b"source\n", b"one\n")
    assert "apps/web/place" not in files
    outside = await yard.result(await yard.start({"app.json": plan("../.."), "apps/web/x": ""}))
    assert outside.failure == events_pb2.BUILD_FAILURE_PLAN
    assert "'../..' is not in the source" in outside.reason


async def test_nothing_recognised_is_the_detectors_sentence(yard):
    result = await yard.result(await yard.start({"readme": "hello"}))
    assert result.failure == events_pb2.BUILD_FAILURE_PLAN
    assert result.reason == "there is no app.json"


async def test_a_detector_that_fails_ends_the_build_and_does_not_hang_it(yard):
    result = await yard.result(await yard.start({"app.json": "not json"}))
    assert result.failure == events_pb2.BUILD_FAILURE_PLAN
    assert result.reason.startswith("the source cannot be planned")


async def test_the_same_request_again_does_nothing(yard, eventually):
    request = await yard.request({"app.json": plan_of("echo once")})
    for _ in range(3):
        await yard.send(request)
    await yard.result(request.deployment_id)
    await yard.send(request)
    await eventually(lambda: not yard.leftovers())
    assert len(await yard.results(request.deployment_id)) == 1
    assert (await yard.text(request.deployment_id)).splitlines().count("once") == 1
