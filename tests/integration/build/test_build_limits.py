"""Builds that take too much, too long, or look where they must not."""

from __future__ import annotations

import base64
import os
import sys

import pytest
from neighbours.build import marked, plan_of

from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2

MIB = 1 << 20


@pytest.fixture
def build_settings():
    return {"processes": 30, "disk_bytes": 64 * MIB, "output_bytes": 1 * MIB}


async def test_a_memory_hog_is_ended_with_its_step_and_peak(yard, eventually):
    hog = "python3 -c 'x = bytearray(400 << 20); import time; time.sleep(600)'"
    deployment = await yard.start({"app.json": plan_of(hog)}, memory_bytes=150 * MIB)
    result = await yard.result(deployment)
    assert result.failure == events_pb2.BUILD_FAILURE_OUT_OF_MEMORY
    assert result.step == "build"
    assert "150 MiB" in result.reason
    assert result.usage.peak_memory_bytes > 150 * MIB
    await eventually(lambda: not marked(deployment))


async def test_a_fork_bomb_is_ended(yard, eventually):
    bomb = "i=0; while [ $i -lt 200 ]; do setsid sleep 600 & i=$((i+1)); done; sleep 600"
    deployment = await yard.start({"app.json": plan_of(bomb)})
    result = await yard.result(deployment)
    assert result.failure == events_pb2.BUILD_FAILURE_PROCESSES
    assert "30 processes" in result.reason
    await eventually(lambda: not marked(deployment))


async def test_endless_sleep_ends_at_the_deadline(yard, eventually):
    deployment = await yard.start({"app.json": plan_of("echo asleep; sleep 600")}, timeout_s=3)
    result = await yard.result(deployment)
    assert result.failure == events_pb2.BUILD_FAILURE_TIMEOUT
    assert result.reason == "build was not done after 3 s, the time a build may take"
    await eventually(lambda: not marked(deployment) and not yard.builders())


# Four processes that turn in circles, for ten seconds of CPU each at most.
_BUSY = """python3 -c 'import os, time
cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
print("cores", cores, flush=True)
print("nice", os.nice(0), flush=True)
for _ in range(2): os.fork()
while time.process_time() < 10: pass'"""


async def test_a_busy_loop_that_forks_has_the_core_that_was_reserved(yard, eventually):
    deployment = await yard.start({"app.json": plan_of(_BUSY)}, cpu_millis=50, timeout_s=8)
    result = await yard.result(deployment)
    assert result.failure == events_pb2.BUILD_FAILURE_TIMEOUT
    assert result.step == "build"
    assert {"cores 1", f"nice {min(19, os.nice(0) + 10)}"} <= set((await yard.text(deployment)).splitlines())
    if sys.platform == "linux":
        # No more than the one core, but for what the builder used before it was held.
        assert result.usage.cpu_s < result.usage.wall_s + 1.5
    await eventually(lambda: not marked(deployment))


async def test_endless_output_is_cut_with_a_marker_and_costs_little(yard):
    deployment = await yard.start({"app.json": plan_of("yes 0123456789012345678901234567890123456789")}, timeout_s=6)
    result = await yard.result(deployment)
    assert result.failure == events_pb2.BUILD_FAILURE_TIMEOUT
    lines = [line.text for line in await yard.lines(deployment)]
    assert sum(len(line) for line in lines) < 2 * MIB
    assert "… more than 1 MiB of output: the rest is left out" in lines


@pytest.mark.parametrize(
    "command",
    [
        "dd if=/dev/zero of=big bs=1M count=200 2> /dev/null",
        "for i in 1 2 3 4 5; do dd if=/dev/zero of=$i bs=1M count=30; done; sleep 60",
    ],
    ids=["one file", "several"],
)
async def test_too_much_on_the_disk_is_ended(yard, eventually, command):
    deployment = await yard.start({"app.json": plan_of(command)})
    result = await yard.result(deployment)
    assert result.failure == events_pb2.BUILD_FAILURE_DISK
    await eventually(lambda: not yard.leftovers())


async def test_what_a_step_leaves_running_is_ended_and_does_not_hold_the_build_up(yard, eventually):
    commands = ["(setsid sleep 600 &) ; sleep 601 & echo started"]
    deployment = await yard.start({"app.json": plan_of(*commands)})
    assert isinstance(await yard.result(deployment), events_pb2.BuildSucceeded)
    await eventually(lambda: not marked(deployment))


async def test_a_build_sees_its_own_variables_and_nothing_of_the_platform(yard, monkeypatch):
    monkeypatch.setenv("SHIPOFF_MASTER_KEY", "platform-secret")
    probe = "env; for p in /proc/[0-9]*/environ; do tr '\\0' '\\n' < $p; done 2> /dev/null | grep -c SHIPOFF_MASTER_KEY"
    deployment = await yard.start({"app.json": plan_of(f"{probe}; true")}, variables={"GREETING": "hi all"})
    await yard.result(deployment)
    text = await yard.text(deployment)
    assert "GREETING=***" in text
    assert "platform-secret" not in text
    assert "postgresql" not in text
    if os.geteuid() == 0:
        assert text.splitlines()[-3] == "0"


async def test_a_printed_secret_is_masked_plain_and_encoded(yard):
    secret = "s3cr3t-value/with+signs"
    commands = ["echo $TOKEN", "printf %s $TOKEN | base64", "echo user:$TOKEN | base64", "echo $TOKEN >&2; exit 1"]
    deployment = await yard.start({"app.json": plan_of(*commands)}, variables={"TOKEN": secret})
    result = await yard.result(deployment)
    everything = await yard.text(deployment) + result.reason
    assert secret not in everything
    assert base64.b64encode(secret.encode()).decode()[:20] not in everything
    assert base64.b64encode(f"user:{secret}".encode()).decode()[8:24] not in everything
    assert everything.count("***") >= 4


async def test_a_build_cannot_reach_the_platforms_sockets_and_folders(yard):
    if os.geteuid() != 0:
        pytest.skip("builds have accounts of their own only where the platform is root")
    commands = [f"ls {yard.home}/{name}" for name in ("run/postgres", "run/valkey", "run/grpc", "objects", "secrets")]
    tries = "; ".join(f"{command} && echo OPEN" for command in commands)
    deployment = await yard.start({"app.json": plan_of(f"{tries}; kill -9 -1; true", "echo alive")})
    await yard.result(deployment)
    text = await yard.text(deployment)
    assert "OPEN" not in text.replace("echo OPEN", "")
    assert yard.home.exists()


@pytest.mark.parametrize(
    "url",
    ["http://localhost/x.git", "http://127.0.0.1:1/x", "http://0x7f000001/x", "http://[::ffff:127.0.0.1]/x", "http://169.254.169.254/x",
     "file:///etc", "ext::sh -c touch% /tmp/x", "-oProxyCommand=x", "/etc", "ssh://git@example.com/x"],
)  # fmt: skip
async def test_private_and_strange_repositories_are_refused(yard, url):
    source = types_pb2.Source(git=types_pb2.GitSource(url=url))
    result = await yard.result(await yard.start(source))
    assert result.failure == events_pb2.BUILD_FAILURE_SOURCE


async def test_a_program_that_is_missing_comes_with_a_remedy(yard):
    plan = plan_of(steps=[{"name": "install", "commands": [{"argv": ["bun", "install"]}]}])
    result = await yard.result(await yard.start({"app.json": plan}))
    assert result.failure == events_pb2.BUILD_FAILURE_PLATFORM
    assert result.reason == "install needs bun, which this machine does not have: install bun on this machine"


async def test_a_link_out_of_the_source_is_no_artifact(yard):
    result = await yard.result(await yard.start({"app.json": plan_of("ln -s /etc/passwd stolen")}))
    assert result.failure == events_pb2.BUILD_FAILURE_ARTIFACT
    assert "stolen" in result.reason


@pytest.mark.parametrize("build_settings", [{"free_bytes": 1 << 60}])
async def test_a_full_disk_is_said_to_be_full(yard):
    result = await yard.result(await yard.start({"app.json": plan_of("sleep 60")}))
    assert result.failure == events_pb2.BUILD_FAILURE_DISK
    assert "the machine's disk is full" in result.reason
