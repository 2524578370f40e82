"""What docker-buildx is called with: arguments as they are, an environment of the build's own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from shipoff.builder.assignment import Assignment, BuildError
from shipoff.builder.images.buildx import Buildx, Request
from shipoff.builder.images.settings import ImageSettings
from shipoff.builder.journal import Journal
from shipoff.builder.programs import Programs

RECORDER = """\
#!{python} -IS
import json, os, sys
with open({log!r}, "a") as log:
    log.write(json.dumps([sys.argv[1:], dict(os.environ)]) + chr(10))
sys.stderr.write({said!r})
sys.exit({code})
"""


def recorder(tmp_path: Path, *, code: int = 0, said: str = "") -> str:
    """A program that writes down how it was called."""
    program = tmp_path / "docker-buildx"
    program.write_text(RECORDER.format(python=sys.executable, log=str(tmp_path / "calls"), code=code, said=said))
    program.chmod(0o755)
    return str(program)


def calls(tmp_path: Path) -> list[tuple[list[str], dict[str, str]]]:
    return [tuple(json.loads(line)) for line in (tmp_path / "calls").read_text().splitlines()]  # type: ignore[misc]  # pairs


def buildx(tmp_path: Path, settings: ImageSettings) -> Buildx:
    folder = tmp_path / "own"
    folder.mkdir()
    assignment = Assignment("a", "t", "m", str(tmp_path), str(tmp_path), None, "/bin")
    environment = {"HTTPS_PROXY": "http://proxy", "DOCKER_HOST": "unix:///elsewhere", "HOME": "/elsewhere"}
    return Buildx(settings, folder, environment, Programs(Journal(1 << 20), assignment))


async def built(made: Buildx, request: Request) -> int:
    code: list[int] = []
    async for _ in made.build(request, code):
        pass
    return code[0]


async def test_a_build_s_arguments_stand_for_themselves(tmp_path):
    settings = ImageSettings(
        recorder(tmp_path), "r/apps", docker_host="unix:///engine", platforms=("linux/amd64", "linux/arm64"),
        sbom_generator="docker.io/a/scan:1", mirrors={"docker.io": "m/hub"}, network="host",
    )  # fmt: skip
    request = Request(
        tmp_path / "Dockerfile",
        Path("--not-an-option"),
        {"type": "image", "name": 'r/a,"b'},
        target="runtime",
        secrets={"TOKEN": tmp_path / "a,b"},
        replaced={"python:3": "m/python:3"},
    )
    assert await built(buildx(tmp_path, settings), request) == 0
    [(words, environment)] = calls(tmp_path)
    assert words[0] == "build"
    assert words[-2:] == ["--", "--not-an-option"]
    assert 'type=image,"name=r/a,""b"' in words
    assert f'id=TOKEN,"src={tmp_path}/a,b"' in words
    assert "python:3=docker-image://m/python:3" in words
    assert "type=sbom,generator=m/hub/a/scan:1" in words
    assert "type=provenance,mode=min" in words
    assert words[words.index("--platform") :][:2] == ["--platform", "linux/amd64,linux/arm64"]
    assert words[words.index("--network") :][:4] == ["--network", "host", "--allow", "network.host"]
    assert environment["DOCKER_HOST"] == "unix:///engine"
    assert environment["HTTPS_PROXY"] == "http://proxy"
    assert environment["HOME"] == environment["DOCKER_CONFIG"].removesuffix("/docker") == str(tmp_path / "own")


async def test_a_remote_buildkit_is_made_known_in_the_build_s_own_configuration(tmp_path):
    made = buildx(tmp_path, ImageSettings(recorder(tmp_path), "r/apps", address="tcp://buildkit:1234", tls_folder="/tls"))
    await made.prepare()
    await built(made, Request(tmp_path / "Dockerfile", tmp_path, {"type": "tar"}))
    (create, environment), (build, _) = calls(tmp_path)
    assert create == [
        *("create", "--name", "shipoff", "--driver", "remote"),
        *("--driver-opt", "cacert=/tls/ca.pem,cert=/tls/cert.pem,key=/tls/key.pem", "--", "tcp://buildkit:1234"),
    ]
    assert build[:3] == ["--builder", "shipoff", "build"]
    assert environment["BUILDX_CONFIG"].startswith(str(tmp_path / "own"))


async def test_a_named_builder_is_looked_up_where_the_operator_made_it(tmp_path):
    made = buildx(
        tmp_path, ImageSettings(recorder(tmp_path), "r/apps", builder="big", builders_folder="/home/o/.docker/buildx")
    )
    await made.prepare()
    await built(made, Request(tmp_path / "Dockerfile", tmp_path, {"type": "tar"}))
    [(build, environment)] = calls(tmp_path)
    assert build[:3] == ["--builder", "big", "build"]
    assert environment["BUILDX_CONFIG"] == "/home/o/.docker/buildx"


async def test_the_operator_s_logins_are_copied(tmp_path):
    logins = tmp_path / "logins.json"
    logins.write_text("{}")
    made = buildx(tmp_path, ImageSettings(recorder(tmp_path), "r/apps", logins=str(logins)))
    await made.prepare()
    assert (tmp_path / "own" / "docker" / "config.json").read_text() == "{}"


async def test_its_last_words_are_the_reason(tmp_path):
    made = buildx(tmp_path, ImageSettings(recorder(tmp_path, code=1, said="a\nERROR: no such image\n"), "r/apps"))
    with pytest.raises(BuildError, match=r"^no such image$"):
        await made.ask("imagetools", "inspect", "--", "x")


async def test_where_it_is_missing_the_reason_says_what_to_install(tmp_path):
    with pytest.raises(BuildError, match="SHIPOFF_BUILD_BUILDX"):
        await buildx(tmp_path, ImageSettings("", "r/apps")).prepare()
