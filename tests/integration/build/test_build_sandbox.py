"""Builds inside bubblewrap: what steps cannot see and reach, whatever account they have."""

from __future__ import annotations

import socket
import uuid

import pytest
from neighbours.build import marked, plan_of
from neighbours.sandboxes import require_sandbox

from shipoff.contracts.events.v1 import events_pb2

CANARY = "canary-of-somebody-else"
_DIAL = """
import os, socket
def dial(family, address):
    try:
        with socket.socket(family) as one:
            one.settimeout(2)
            one.connect(address)
        print("REACHED", address)
    except OSError as error:
        print("refused", address, type(error).__name__)
for path in {paths!r}:
    dial(socket.AF_UNIX, path)
for port in (5432, 6379, 2019):
    dial(socket.AF_INET, ("127.0.0.1", port))
print("kubernetes", sorted(name for name in os.environ if "KUBE" in name), os.path.exists("/var/run/secrets"))
"""


@pytest.fixture(autouse=True)
def _sandboxed() -> None:
    require_sandbox()


@pytest.fixture
def build_settings():
    return {"sandbox": "required"}


async def _said(yard, *commands: str, **options: object) -> list[str]:
    """What the commands wrote, line by line; the build has to succeed."""
    deployment = await yard.start({"app.json": plan_of(*commands)}, **options)
    result = await yard.result(deployment)
    lines = [line.text for line in await yard.lines(deployment) if line.channel]
    assert isinstance(result, events_pb2.BuildSucceeded), (result, lines)
    return lines


async def test_a_build_sees_no_process_but_its_own(yard):
    lines = await _said(
        yard, "tr '\\0' '\\n' < /proc/1/environ; echo; ls -d /proc/[0-9]* | wc -l", "cat /proc/*/cmdline | tr '\\0' ' '"
    )
    assert int(lines[1]) <= 5
    assert lines[0] == ""
    assert "shipoff" not in " ".join(lines)


async def test_a_build_sees_neither_homes_nor_the_platforms_folders_nor_anothers_cache(yard):
    other = yard.home / "builds" / "caches" / str(uuid.uuid4())
    (other / "npm").mkdir(parents=True)
    (other / "npm" / "token").write_text(CANARY)
    other.chmod(0o777)
    lines = await _said(
        yard,
        f"ls -A {yard.home} {yard.home}/builds {yard.home}/builds/caches; cat {other}/npm/token 2>&1 || true",
        "echo /tmp: $(ls -A /tmp); echo run: $(ls -A /run /root /home | grep -v ^/)",
        "for f in / /etc /usr /run /home /dev; do (echo x > $f/x) 2> /dev/null && echo WRITTEN $f; done; true",
    )
    text = "\n".join(lines)
    assert CANARY not in text
    assert str(yard.project_id) in text
    assert other.name not in text.replace(str(other), "")
    assert "WRITTEN" not in text
    assert f"/tmp: {yard.home.name}" in lines
    assert "run: " in lines or "run:" in lines


async def test_a_build_that_dials_redis_postgresql_or_the_kubernetes_api_is_refused(yard, backing):
    paths = [f"{backing.home}/run/postgres/.s.PGSQL.5432", f"{backing.home}/run/valkey/valkey.sock"]
    for path in paths:
        with socket.socket(socket.AF_UNIX) as dial:
            dial.connect(path)
    deployment = await yard.start({"app.json": plan_of("python3 dial.py"), "dial.py": _DIAL.format(paths=paths)})
    assert isinstance(await yard.result(deployment), events_pb2.BuildSucceeded)
    text = await yard.text(deployment)
    assert "REACHED" not in text
    assert text.count("refused") == len(paths) + 3
    assert "kubernetes [] False" in text


async def test_variables_change_the_program_and_not_the_sandbox_around_it(yard):
    # Such names are refused at the door; should one get in, it must not load code outside of the sandbox.
    deployment = await yard.start({"app.json": plan_of("true")}, variables={"LD_PRELOAD": "/nowhere/evil.so"})
    assert isinstance(await yard.result(deployment), events_pb2.BuildSucceeded)
    complaints = [line.text for line in await yard.lines(deployment) if "cannot be preloaded" in line.text]
    # The step's one program complains, bubblewrap does not.
    assert len(complaints) == 1


async def test_a_signal_is_told_as_without_a_sandbox(yard):
    result = await yard.result(await yard.start({"app.json": plan_of("kill -SEGV $$")}))
    assert result.reason == "`kill -SEGV $$` was killed by SIGSEGV"


async def test_a_program_of_the_source_that_is_missing_is_said_to_be(yard):
    plan = plan_of(steps=[{"name": "install", "commands": [{"argv": ["./gradlew", "build"]}]}])
    result = await yard.result(await yard.start({"app.json": plan}))
    assert result.reason == "./gradlew cannot be run: No such file or directory"


async def test_everything_ends_with_the_builder_whatever_it_does_to_get_away(yard, eventually):
    away = "setsid setsid sh -c 'trap \"\" TERM HUP INT; sleep 600 & sleep 600' & sleep 600"
    deployment = await yard.start({"app.json": plan_of(away)})
    await eventually(lambda: len(marked(deployment)) >= 4, timeout_s=30)
    # The service is not there to clean up: the kernel does.
    await yard.down()
    for builder in yard.builders():
        builder.kill()
    await eventually(lambda: not marked(deployment))
    await yard.up()
