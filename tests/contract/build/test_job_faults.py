"""What can happen to a build's Job, its pod and the cluster's API, and what becomes of the attempt."""

from __future__ import annotations

import uuid

import pytest
from lightkube.resources.core_v1 import Namespace, Pod
from neighbours.build import plan_of
from neighbours.kube_builds import PATIENCE_S, REAL, said, until

from shipoff.build.adapters.kubernetes import launcher
from shipoff.build.domain import Order, Ref
from shipoff.build.manifests import job, name_of
from shipoff.contracts.events.v1 import events_pb2

ENDLESS = {"app.json": plan_of("echo begun; sleep 600")}
# A lease, and the five seconds that work which may start may wait.
LEASE_S = 35.0


async def begun(yard, **options) -> str:
    """A build that runs until something ends it."""
    deployment_id = await yard.start(ENDLESS, **options)
    await said(yard, deployment_id, "begun")
    return deployment_id


async def lost(yard, deployment_id: str) -> events_pb2.BuildFailed:
    """Its failure, which has the orchestrator begin another attempt."""
    result = await yard.result(deployment_id, timeout_s=LEASE_S)
    assert result.failure == events_pb2.BUILD_FAILURE_BUILDER_LOST, result
    return result


async def test_a_pod_that_is_told_to_end_from_outside_is_lost_not_cancelled(yard, site):
    deployment_id = await begun(yard)
    await site.delete_pod(deployment_id)
    assert "from outside" in (await lost(yard, deployment_id)).reason
    await until(site.empty, "something of the build is left on the cluster")


async def test_a_pod_that_is_gone_at_once_is_lost(yard, site):
    deployment_id = await begun(yard)
    await site.delete_pod(deployment_id, grace_s=0)
    await lost(yard, deployment_id)
    await until(site.empty, "something of the build is left on the cluster")


async def test_a_deleted_job_is_lost_and_the_next_attempt_succeeds(yard, site):
    deployment_id = await begun(yard)
    await site.delete_job(deployment_id)
    await lost(yard, deployment_id)
    await yard.start({"app.json": plan_of("echo x >made.txt")}, deployment_id=deployment_id, attempt=2)

    async def succeeded() -> bool:
        return any(isinstance(one, events_pb2.BuildSucceeded) for one in await yard.results(deployment_id))

    await until(succeeded, "the second attempt did not succeed")
    await until(site.empty, "something of the build is left on the cluster")


async def test_a_build_over_its_memory_says_so(yard, site):
    """On a real cluster by allocating more than the pod has, all at once."""
    hog = plan_of("echo begun", "exec python3 -c 'bytearray(3 << 30)'" if REAL else "sleep 600")
    deployment_id = await yard.start({"app.json": hog}, memory_bytes=128 << 20)
    if site.nodes is not None:
        await said(yard, deployment_id, "begun")
        site.nodes.run_out_of_memory()
    result = await yard.result(deployment_id, timeout_s=PATIENCE_S)
    assert result.failure == events_pb2.BUILD_FAILURE_OUT_OF_MEMORY, result


async def test_a_job_past_its_deadline_is_a_time_out(yard, site):
    deployment_id = await begun(yard)
    await site.cut_short(deployment_id)
    result = await yard.result(deployment_id, timeout_s=LEASE_S)
    assert result.failure == events_pb2.BUILD_FAILURE_TIMEOUT, result
    await until(site.empty, "something of the build is left on the cluster")


async def test_a_namespace_that_is_deleted_is_made_again_for_the_next_build(yard, site):
    deployment_id = await begun(yard)
    await site.client.delete(Namespace, site.namespace)
    await lost(yard, deployment_id)
    deployment_id = await yard.start({"app.json": plan_of("echo x >made.txt")})
    result = await yard.result(deployment_id, timeout_s=PATIENCE_S)
    assert isinstance(result, events_pb2.BuildSucceeded), result


async def test_jobs_that_nobody_knows_are_collected_and_others_left_alone(yard, site, job_cluster):
    await yard.result(await yard.start({"app.json": plan_of("true")}), timeout_s=PATIENCE_S)
    await yard.down()
    order = Order(yard.project_id, 100, 64 << 20, 60)
    unknown, foreign = Ref(str(uuid.uuid4()), 1), Ref(str(uuid.uuid4()), 1)
    await site.client.create(job(unknown, order, job_cluster()))
    await site.client.create(job(foreign, order, job_cluster(platform="another")))
    await yard.up()

    async def collected() -> bool:
        return await site.job(unknown.deployment_id) is None

    await until(collected, "the leftover is still there")
    assert await site.job(foreign.deployment_id) is not None


async def test_a_job_of_a_launch_that_was_never_written_down_is_replaced(yard, site, job_cluster):
    await yard.result(await yard.start({"app.json": plan_of("true")}), timeout_s=PATIENCE_S)
    request = await yard.request({"app.json": plan_of("echo x >made.txt")})
    order = Order(yard.project_id, 100, 64 << 20, 60)
    await site.client.create(job(Ref(request.deployment_id, 1), order, job_cluster()))
    await yard.send(request)
    result = await yard.result(request.deployment_id, timeout_s=PATIENCE_S)
    assert isinstance(result, events_pb2.BuildSucceeded), result


@pytest.mark.parametrize("job_settings", [{"BEGIN_S": "1"}])
@pytest.mark.parametrize(("trouble", "words"), [("full", "no node has room"), ("no_image", "image cannot be pulled")])
async def test_a_pod_that_cannot_begin_says_why(yard, nodes, trouble, words):
    setattr(nodes, trouble, True)
    deployment_id = await yard.start(ENDLESS)
    result = await yard.result(deployment_id, timeout_s=PATIENCE_S)
    assert result.failure == events_pb2.BUILD_FAILURE_PLATFORM
    assert words in result.reason


async def test_a_pod_whose_node_does_not_answer_is_given_up(yard, site, nodes, monkeypatch):
    monkeypatch.setattr(launcher, "_END_S", 0.2)
    deployment_id = await begun(yard)
    nodes.away = True
    request = await yard.request({"app.json": plan_of("true")}, deployment_id=deployment_id, attempt=2)
    await yard.send(request)

    async def gone() -> bool:
        return not [name for name in await site.names(Pod) if name.startswith(name_of(Ref(deployment_id, 1)))]

    await until(gone, "the pod of the first attempt is still there")


async def test_what_the_api_refuses_for_a_moment_is_asked_again(yard, fake, site):
    refusals = [
        ("PATCH", "/namespaces", 500), ("POST", "/jobs", 503), ("POST", "/secrets", 429), ("PATCH", "/jobs/", 409),
        ("GET", "/pods", 410), ("DELETE", "/jobs/", 500),
    ]  # fmt: skip
    faults = [fake.fail(method, path, code) for method, path, code in refusals]
    # This one is carried out and not answered: the Job is there, and its launch begins anew.
    faults.append(fake.fail("POST", "/jobs", 500, done=True))
    fake.cut_watches()
    deployment_id = await yard.start({"app.json": plan_of("echo x >made.txt")})
    result = await yard.result(deployment_id, timeout_s=PATIENCE_S)
    assert isinstance(result, events_pb2.BuildSucceeded), result
    await until(site.empty, "something of the build is left on the cluster")
    assert not [one for one in faults if one.times]


async def test_what_happened_while_nothing_was_watched_is_seen_at_the_next_list(yard, fake, site):
    deployment_id = await begun(yard)
    fake.forget_history()
    fake.cut_watches()
    await site.delete_job(deployment_id)
    await lost(yard, deployment_id)


async def test_a_look_at_builders_asks_the_api_nothing(yard, fake):
    deployment_id = await begun(yard)
    await yard.down()
    before = len(fake.requests)
    await yard.up()
    # One list and one watch of each kind.
    await until(lambda: len(fake.requests) >= before + 4, "the cluster is not followed")
    heard = (await yard.get(deployment_id)).last_seen_at

    async def beats() -> bool:
        return bool((await yard.get(deployment_id)).last_seen_at != heard)

    await until(beats, "nothing more is heard of the builder")
    kinds = sorted(path.rpartition("/")[2] for _, path in fake.requests[before:])
    assert kinds == ["jobs", "jobs", "pods", "pods"]


@pytest.mark.parametrize("job_settings", [{"PREPARE": "false"}])
async def test_a_namespace_that_is_yours_to_make_is_missed_by_name_and_left_alone(yard, fake, site):
    result = await yard.result(await yard.start(ENDLESS), timeout_s=PATIENCE_S)
    assert result.failure == events_pb2.BUILD_FAILURE_PLATFORM
    assert f"there is no namespace {site.namespace}" in result.reason
    assert "SHIPOFF_BUILD_JOB_PREPARE" in result.reason
    assert not [path for method, path in fake.requests if method == "PATCH"]
