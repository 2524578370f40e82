"""Builds as Jobs, from the request to the artifact and to nothing left; on the small cluster, or on a real one."""

from __future__ import annotations

import pytest
from neighbours.authority import Authority
from neighbours.build import plan_of
from neighbours.kube_builds import PATIENCE_S, REAL, said, until

from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2


async def test_an_uploaded_folder_is_built_in_a_job_of_which_nothing_is_left(yard, site):
    source = {"app.json": plan_of("echo hello from $COLOUR", "echo built >made.txt"), "main.sh": "echo\n"}
    deployment_id = await yard.start(source, variables={"COLOUR": "green"}, memory_bytes=256 << 20, cpu_millis=200)
    result = await yard.result(deployment_id, timeout_s=PATIENCE_S)
    assert isinstance(result, events_pb2.BuildSucceeded), result
    assert (await yard.files(result.artifact))["made.txt"] == b"built\n"
    assert "hello from green" in await yard.text(deployment_id)
    await until(site.empty, "something of the build is left on the cluster")


async def test_a_repository_is_cloned_in_the_pod(yard, git_server):
    commit = git_server.push("shop", {"app.json": plan_of(mode="PLAN_MODE_STATIC", outputDir="."), "index.html": "hello"})
    git = types_pb2.GitSource(url=git_server.url("shop"), ref="main")
    deployment_id = await yard.start(types_pb2.Source(git=git))
    result = await yard.result(deployment_id, timeout_s=PATIENCE_S)
    assert isinstance(result, events_pb2.BuildSucceeded), result
    assert result.commit == commit
    assert (await yard.files(result.artifact))["index.html"] == b"hello"


async def test_a_build_goes_on_while_its_service_restarts(yard, tmp_path):
    deployment_id = await yard.start({"app.json": plan_of("echo before; sleep 3; echo after; echo x >made.txt")})
    await said(yard, deployment_id, "before")
    await yard.down()
    await yard.up()
    result = await yard.result(deployment_id, timeout_s=PATIENCE_S)
    assert isinstance(result, events_pb2.BuildSucceeded), result
    lines = [line.text for line in await yard.lines(deployment_id)]
    assert [text for text in lines if text in ("before", "after")] == ["before", "after"]


async def test_a_cancelled_build_has_no_job_within_seconds(yard, site):
    """Five of them; on a machine that is busy with other tests four times as many."""
    deployment_id = await yard.start({"app.json": plan_of("trap '' TERM; echo begun; sleep 600")})
    await said(yard, deployment_id, "begun")
    await yard.cancel(deployment_id)

    async def gone() -> bool:
        return await site.job(deployment_id) is None

    await until(gone, "its Job is still there", timeout_s=5 if REAL else 20)
    result = await yard.result(deployment_id, timeout_s=PATIENCE_S)
    assert result.failure == events_pb2.BUILD_FAILURE_CANCELLED
    await until(site.empty, "something of the build is left on the cluster")


async def test_a_next_attempt_takes_the_place_of_the_one_before(yard, site):
    files = {"app.json": plan_of("echo begun $(cat marker); test -s marker || sleep 600; echo x >made.txt"), "marker": ""}
    deployment_id = await yard.start(files)
    await said(yard, deployment_id, "begun")
    await yard.start({**files, "marker": "x"}, deployment_id=deployment_id, attempt=2)

    async def succeeded() -> bool:
        return any(isinstance(one, events_pb2.BuildSucceeded) for one in await yard.results(deployment_id))

    await until(succeeded, "the second attempt did not succeed")
    results = {one.attempt: one for one in await yard.results(deployment_id)}
    assert results[1].failure == events_pb2.BUILD_FAILURE_CANCELLED
    await until(site.empty, "something of the build is left on the cluster")


async def test_a_build_sees_nothing_of_its_builders_and_of_the_cluster(yard):
    looks = [
        "env | grep -q -e ASSIGNMENT -e KUBERNETES && echo LEAKED environment; echo looked",
        "ls /var/run/secrets/kubernetes.io 2>/dev/null && echo LEAKED credentials; echo looked",
    ]
    if REAL:
        looks += [
            "cat /proc/1/environ /proc/1/mem 2>/dev/null && echo LEAKED builder; echo looked",
            "touch /opt/x /usr/x 2>/dev/null && echo LEAKED image; test $(id -u) = 10001 || echo LEAKED account; echo looked",
            "grep -q 'Seccomp:.2' /proc/self/status || echo LEAKED calls; echo looked",
            "grep -q 'CapBnd:.0000000000000000' /proc/self/status || echo LEAKED capabilities; echo looked",
        ]
    deployment_id = await yard.start({"app.json": plan_of(*looks, "echo x >made.txt")})
    result = await yard.result(deployment_id, timeout_s=PATIENCE_S)
    assert isinstance(result, events_pb2.BuildSucceeded), result
    said = [line.text for line in await yard.lines(deployment_id) if line.channel]
    assert said == ["looked"] * len(looks)


@pytest.fixture
def certified(tmp_path, monkeypatch) -> None:
    """The build service has a certificate."""
    files = Authority().issue(tmp_path / "certificates", "build")
    for name in ("certificate", "key", "ca"):
        monkeypatch.setenv(f"SHIPOFF_TLS_{name.upper()}", str(getattr(files, name)))


async def test_where_services_have_certificates_a_pod_is_told_whom_to_believe(certified, yard, fake):
    deployment_id = await yard.start({"app.json": plan_of("echo x >made.txt")})
    result = await yard.result(deployment_id, timeout_s=PATIENCE_S)
    assert isinstance(result, events_pb2.BuildSucceeded), result
