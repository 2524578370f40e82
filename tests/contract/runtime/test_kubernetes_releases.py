"""Releases on Kubernetes: they come up, take over, come back and go; on the small API and on a real cluster."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from dataclasses import replace

import pytest
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.autoscaling_v2 import HorizontalPodAutoscaler
from lightkube.resources.core_v1 import ConfigMap, Namespace, Secret, ServiceAccount
from lightkube.resources.networking_v1 import Ingress, NetworkPolicy
from lightkube.types import PatchType
from neighbours.kube_api import KubeApi
from neighbours.kube_runtime import CRASHES, QUICK, REAL, SERVES, SILENT, Ground, Runtime, exists, missing_image, until
from neighbours.runtime_store import MemoryStore

from shipoff.runtime.adapters.kubernetes.api import Api
from shipoff.runtime.domain import (
    EmitEndpointsChanged,
    EmitFailed,
    EmitReady,
    EmitStopped,
    Endpoint,
    Instance,
    InstanceState,
    Phase,
    Process,
    Workload,
)
from shipoff.runtime.manifests.marks import DEPLOYMENT

OTHER = (*SERVES, "-h", "/bin")


async def test_a_release_becomes_ready_behind_the_service_of_its_environment(ground: Ground, runtime: Runtime) -> None:
    web = ground.workload(variables={"GREETING": "hello"})
    told = await ground.ready(runtime, web)
    names = ground.names[web.deployment_id]
    assert told.endpoints == (Endpoint(f"production.{names.namespace}.svc", 80),)
    assert await ground.routed(web) == names.release
    assert len(await ground.pods(web)) == 1
    namespace = await ground.client.get(Namespace, names.namespace)
    assert namespace.metadata.labels["pod-security.kubernetes.io/enforce"] == "restricted"
    policies = [one.metadata.name async for one in ground.client.list(NetworkPolicy, namespace=names.namespace)]
    assert set(policies) == {"deny-all", "allow-dns", "allow-outside", "allow-ingress-controller"}
    account = await ground.client.get(ServiceAccount, "app", namespace=names.namespace)
    assert account.automountServiceAccountToken is False
    ingress = await ground.client.get(Ingress, "production", namespace=names.namespace)
    assert [rule.host for rule in ingress.spec.rules] == ["shop.example"]


async def test_variables_are_in_the_secret_and_nowhere_else(ground: Ground, runtime: Runtime) -> None:
    web = ground.workload(variables={"TOKEN": "hush-hush"})
    await ground.ready(runtime, web)
    names = ground.names[web.deployment_id]
    secret = await ground.client.get(Secret, names.secret, namespace=names.namespace)
    assert base64.b64decode(secret.data["TOKEN"]) == b"hush-hush"
    assert secret.immutable
    config = await ground.client.get(ConfigMap, names.config, namespace=names.namespace)
    assert config.immutable
    deployment = await ground.client.get(Deployment, names.process("web"), namespace=names.namespace)
    assert "hush-hush" not in f"{config.to_dict()} {deployment.to_dict()} {secret.metadata}"


async def test_the_next_release_takes_over_and_the_one_before_stays_as_the_way_back(ground: Ground, runtime: Runtime) -> None:
    old, new = ground.workload(), ground.workload(*OTHER)
    await ground.ready(runtime, old)
    before = await ground.pods(old)
    await ground.ready(runtime, new)
    assert await ground.routed(new) == ground.names[new.deployment_id].release
    await runtime.handlers.stop(old.deployment_id)
    await _stays_for_a_while(ground, old)
    assert [one.metadata.uid for one in await ground.pods(old)] == [one.metadata.uid for one in before]


async def test_coming_back_to_a_release_that_stayed_starts_nothing(ground: Ground, runtime: Runtime) -> None:
    sealed = ground.sealed({"A": "1"})
    old, new = ground.workload(sealed=sealed), ground.workload(*OTHER)
    await ground.ready(runtime, old)
    before = await ground.pods(old)
    await ground.ready(runtime, new)
    await runtime.handlers.stop(old.deployment_id)
    back = ground.workload(sealed=sealed)
    await ground.ready(runtime, back)
    assert await ground.routed(back) == ground.names[old.deployment_id].release
    await ground.stopped(runtime, old)
    assert [one.metadata.uid for one in await ground.pods(back)] == [one.metadata.uid for one in before]


async def test_after_the_time_for_coming_back_the_old_release_is_gone(ground: Ground) -> None:
    async with ground.runtime(drain_s=0.5) as runtime:
        old, new = ground.workload(variables={"A": "1"}), ground.workload(*OTHER)
        await ground.ready(runtime, old)
        await ground.ready(runtime, new)
        await ground.stopped(runtime, old)
        assert not await ground.pods(old, ready=False)
        assert await ground.pods(new)
        names = ground.names[old.deployment_id]
        secrets = [one.metadata.name async for one in ground.client.list(Secret, namespace=names.namespace)]
        assert names.secret not in secrets


async def test_only_the_release_just_before_stays(ground: Ground, runtime: Runtime) -> None:
    first, second, third = ground.workload(), ground.workload(*OTHER), ground.workload(*SERVES, "-h", "/")
    for before, one in ((None, first), (first, second), (second, third)):
        await ground.ready(runtime, one)
        if before is not None:
            await runtime.handlers.stop(before.deployment_id)
    await ground.stopped(runtime, first)
    await _stays_for_a_while(ground, second)
    assert await ground.pods(second)
    assert await ground.pods(third)


async def _stays_for_a_while(ground: Ground, workload: Workload) -> None:
    """Waits until it is on its way out, and sees that it is told to end later: a release that nothing replaced is at once."""

    def leaving() -> tuple[Instance, ...]:
        return ground.store.rows[workload.deployment_id][1]

    await until(lambda: leaving() and all(one.state is InstanceState.STOPPING for one in leaving()))
    assert all(one.due_at > ground.clock() + QUICK.drain_s / 2 for one in leaving())


async def test_a_stopped_app_that_nothing_replaced_goes_at_once_with_its_namespace(ground: Ground, runtime: Runtime) -> None:
    web = ground.workload()
    await ground.ready(runtime, web)
    await ground.stopped(runtime, web)
    await until(lambda: _is_gone(ground, web))


async def _is_gone(ground: Ground, workload: Workload) -> bool:
    return not await exists(ground.client, ground.names[workload.deployment_id].namespace)


async def test_a_project_whose_last_release_has_just_gone_is_deployed_again(ground: Ground, runtime: Runtime) -> None:
    # Each finds the namespace of the one before on its way out, which ends while its objects are applied.
    for _ in range(3):
        web = ground.workload()
        await ground.ready(runtime, web)
        await ground.stopped(runtime, web)


async def test_of_what_is_over_nothing_is_kept_in_mind(ground: Ground, runtime: Runtime) -> None:
    driver, wishes = runtime.driver, runtime.wishes
    web = ground.workload()
    for before, one in ((None, web), (web, ground.workload(*OTHER))):
        await ground.ready(runtime, one)
        if before is not None:
            await runtime.handlers.stop(before.deployment_id)
    for generation in range(1, 4):
        await runtime.handlers.restart(one.deployment_id)
        await until(lambda generation=generation: _newest(ground, one) == generation)
    await until(lambda: len(driver._pods[one.deployment_id]) == 1)
    await ground.stopped(runtime, one)
    await ground.stopped(runtime, web)
    await until(lambda: (wishes._known, dict(wishes._in_namespace), driver._pods) == ({}, {}, {}))


def _newest(ground: Ground, workload: Workload) -> int:
    """The generation that a ready instance is of."""
    ready = [one for one in ground.store.rows[workload.deployment_id][1] if one.state is InstanceState.READY]
    return max((one.generation for one in ready), default=0)


async def test_environments_of_a_project_share_its_namespace_and_nothing_else(ground: Ground, runtime: Runtime) -> None:
    live, preview = ground.workload(), ground.workload(environment="preview")
    await ground.ready(runtime, live)
    await ground.ready(runtime, preview)
    assert ground.names[live.deployment_id].namespace == ground.names[preview.deployment_id].namespace
    await ground.stopped(runtime, preview)
    assert await ground.pods(live)
    assert await ground.routed(live)
    assert not await ground.routed(preview)


async def test_two_platforms_on_one_cluster_leave_each_other_s_objects_alone(ground: Ground) -> None:
    other = replace(
        ground, store=MemoryStore(), names={}, cluster=replace(ground.cluster, platform=f"{ground.cluster.platform}-two")
    )
    async with ground.runtime() as first, other.runtime() as second:
        mine, theirs = ground.workload(), other.workload()
        await ground.ready(first, mine)
        before = [one.metadata.uid for one in await ground.pods(mine)]
        await other.ready(second, theirs)
        await other.stopped(second, theirs)
        await until(lambda: _is_gone(other, theirs))
    assert [one.metadata.uid for one in await ground.pods(mine)] == before


async def test_a_platform_s_runtime_sees_nothing_of_another_s(ground: Ground, runtime: Runtime) -> None:
    web = ground.workload()
    await ground.ready(runtime, web)
    namespace = ground.names[web.deployment_id].namespace
    for platform, seen in ((ground.cluster.platform, True), ("shipoff-two", False)):
        found, _ = await Api(ground.client, platform=platform).list(Deployment)
        assert (namespace in {one.metadata.namespace for one in found}) is seen


async def test_the_cluster_says_what_its_nodes_have_to_give(ground: Ground, runtime: Runtime) -> None:
    capacity = await runtime.driver.capacity()
    assert capacity.cpu_millis >= 100
    assert capacity.memory_bytes > 64 << 20
    if ground.nodes is not None:
        # Two nodes, and one more that takes no pods.
        assert (capacity.cpu_millis, capacity.memory_bytes) == (3500, 6 << 30)


async def test_instances_are_added_and_taken_away(ground: Ground, runtime: Runtime) -> None:
    web = ground.workload()
    await ground.ready(runtime, web)

    await runtime.handlers.scale(web.deployment_id, 3)
    await until(lambda: _are_there(ground, web, 3))
    await runtime.handlers.scale(web.deployment_id, 1)
    await until(lambda: _are_there(ground, web, 1))
    await until(lambda: len(ground.store.rows[web.deployment_id][1]) == 1)
    assert ground.store.rows[web.deployment_id][0].phase is Phase.READY


@pytest.mark.parametrize("most", [0, 5])
async def test_a_paused_release_has_no_pods_and_no_autoscaler_until_it_is_resumed(ground: Ground, most: int) -> None:
    ground.cluster = replace(ground.cluster, max_replicas=most)
    async with ground.runtime() as runtime:
        web = ground.workload(replicas=2)
        await ground.ready(runtime, web)
        await runtime.handlers.pause(web.deployment_id, paused=True)
        await until(lambda: _are_there(ground, web, 0))
        namespace = ground.names[web.deployment_id].namespace
        assert not [one async for one in ground.client.list(HorizontalPodAutoscaler, namespace=namespace)]
        await until(lambda: not ground.store.rows[web.deployment_id][1])
        assert not [one for one in ground.store.emissions if isinstance(one[1], EmitFailed)]
        await runtime.handlers.pause(web.deployment_id, paused=False)
        await until(lambda: _are_there(ground, web, 2))
        await until(lambda: any(isinstance(one, EmitEndpointsChanged) for _, one in ground.store.emissions))
        found = [one async for one in ground.client.list(HorizontalPodAutoscaler, namespace=namespace)]
        assert len(found) == (1 if most else 0)


async def test_what_an_autoscaler_added_stays_when_the_same_release_is_deployed_again(ground: Ground) -> None:
    ground.cluster = replace(ground.cluster, max_replicas=9)
    async with ground.runtime() as runtime:
        sealed = ground.sealed({"A": "1"})
        web = ground.workload(sealed=sealed, replicas=2)
        await ground.ready(runtime, web)
        assert await _replicas(ground, web) == 2
        names = ground.names[web.deployment_id]
        more = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 4}}
        more["metadata"] = {"name": names.process("web"), "namespace": names.namespace}
        applied = {"patch_type": PatchType.APPLY, "field_manager": "autoscaler", "force": True}
        await ground.client.patch(Deployment, names.process("web"), more, namespace=names.namespace, **applied)
        await until(lambda: _are_there(ground, web, 4))
        again = ground.workload(sealed=sealed, replicas=2)
        await ground.ready(runtime, again)
        found = await ground.client.get(Deployment, names.process("web"), namespace=names.namespace)
        assert found.metadata.labels[DEPLOYMENT] == again.deployment_id
        assert found.spec.replicas == 4
        await runtime.handlers.scale(again.deployment_id, 6)
        await until(lambda: _are_there(ground, again, 6))


async def test_where_autoscaling_begins_no_instance_is_lost(ground: Ground, fake: KubeApi) -> None:
    web = ground.workload(replicas=3)
    async with ground.runtime() as runtime:
        await ground.ready(runtime, web)
    before, since = await ground.pods(web), fake.store.version
    ground.cluster = replace(ground.cluster, max_replicas=5)
    async with ground.runtime() as runtime:
        await until(lambda: fake.store.of("horizontalpodautoscalers"))
        assert [one.metadata.uid for one in await ground.pods(web)] == [one.metadata.uid for one in before]
        # As many as the most: there is nothing to scale.
        await runtime.handlers.scale(web.deployment_id, 5)
        await until(lambda: not fake.store.of("horizontalpodautoscalers"))
        await until(lambda: _are_there(ground, web, 5))
        await runtime.handlers.scale(web.deployment_id, 4)
        await until(lambda: fake.store.of("horizontalpodautoscalers"))
        assert await _replicas(ground, web) == 5
    versions = [one for one in fake.store.history if one[0] > since and one[2] == "deployments"]
    numbers = [obj["spec"]["replicas"] for *_, obj in versions]
    assert numbers == sorted(numbers)
    assert set(numbers) == {3, 5}


async def _replicas(ground: Ground, workload: Workload) -> int:
    """What the Deployment of its `web` says."""
    names = ground.names[workload.deployment_id]
    found = await ground.client.get(Deployment, names.process("web"), namespace=names.namespace)
    return int(found.spec.replicas)


async def _are_there(ground: Ground, workload: Workload, count: int) -> bool:
    """Whether so many pods of its release are ready, and no others are on their way."""
    return len(await ground.pods(workload, ready=False)) == len(await ground.pods(workload)) == count


async def test_an_asked_for_restart_replaces_the_instances(ground: Ground, runtime: Runtime) -> None:
    web = ground.workload()
    await ground.ready(runtime, web)
    [before] = await ground.pods(web)
    await runtime.handlers.restart(web.deployment_id)

    async def replaced() -> bool:
        pods = await ground.pods(web)
        return len(pods) == 1 and pods[0].metadata.uid != before.metadata.uid

    await until(replaced)
    await until(lambda: ground.store.rows[web.deployment_id][0].phase is Phase.READY)


async def test_workers_run_beside_the_web(ground: Ground, runtime: Runtime) -> None:
    processes = (Process("web", SERVES), Process("worker", ("sleep", "600")))
    both = ground.workload(processes=processes)
    await ground.ready(runtime, both)
    assert len(await ground.pods(both, ready=False)) == 2


async def test_a_release_that_crashes_says_so_and_leaves_the_one_before_alone(ground: Ground, runtime: Runtime) -> None:
    old = ground.workload()
    await ground.ready(runtime, old)
    [before] = await ground.pods(old)
    new = await ground.apply(runtime, ground.workload(*CRASHES))
    failed = await ground.told(new, EmitFailed)
    assert failed.reason == "exited 3 times before it was ready: exit code 7 — last lines: cannot find the flux capacitor"
    await until(lambda: ground.store.rows[new.deployment_id][0].settled)
    assert not await ground.pods(new, ready=False)
    assert [one.metadata.uid for one in await ground.pods(old)] == [before.metadata.uid]
    assert await ground.routed(old) == ground.names[old.deployment_id].release


async def test_a_release_that_never_answers_is_told_with_what_it_said(ground: Ground, runtime: Runtime) -> None:
    web = ground.workload(*SILENT, ready_timeout_s=8.0)
    failed = await ground.fails(runtime, web, "nothing answered")
    assert failed.reason.startswith("never became ready: nothing answered on port 8080 — last lines: waiting for Godot")


async def test_an_image_that_cannot_be_pulled_is_named(ground: Ground, runtime: Runtime) -> None:
    web = ground.workload(artifact=missing_image(), ready_timeout_s=8.0)
    failed = await ground.fails(runtime, web, "cannot be pulled")
    assert failed.reason.startswith("never became ready: its image cannot be pulled: ")
    assert "registry.invalid/shop" in failed.reason


async def test_a_pod_that_no_node_has_room_for_is_told(ground: Ground, runtime: Runtime) -> None:
    web = ground.workload(memory_bytes=1 << 40, ready_timeout_s=5.0)
    failed = await ground.fails(runtime, web, "no room")
    assert failed.reason.startswith("never became ready: no room for it on any node: 0/1 nodes are available: 1 Insufficient")


async def test_a_project_above_its_quota_is_told_so(ground: Ground) -> None:
    ground.cluster = replace(ground.cluster, quota_memory_bytes=64 << 20)
    async with ground.runtime() as runtime:
        web = ground.workload(memory_bytes=128 << 20, ready_timeout_s=5.0)
        failed = await ground.fails(runtime, web, "no pod can be made")
        assert failed.reason.startswith("never became ready: no pod can be made")
        assert "exceeded quota" in failed.reason


async def test_the_cluster_s_own_names_are_refused(ground: Ground, runtime: Runtime) -> None:
    web = ground.workload(project_name="kube-system")
    await runtime.handlers.apply(web)
    failed = await ground.told(web, EmitFailed)
    assert failed.reason == "kube-system is a name of the cluster's own"


async def test_requests_always_had_a_ready_release_to_go_to(ground: Ground, runtime: Runtime, fake: KubeApi) -> None:
    old = ground.workload()
    await ground.ready(runtime, old)
    since = fake.store.version
    await _replaced_twice(ground, runtime, old)
    assert unserved(fake, since=since) == []


@pytest.mark.skipif(not REAL, reason="the small cluster takes no requests")
async def test_every_request_is_answered_while_releases_take_over(ground: Ground) -> None:
    async with ground.runtime(drain_s=0.5) as runtime:
        old = ground.workload()
        await ground.ready(runtime, old)
        answers = Counter[int]()
        asking = asyncio.create_task(_ask(ground, old, answers))
        await _replaced_twice(ground, runtime, old)
        await ground.told(old, EmitStopped)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        # What the API server says when the Service leads nowhere, or to what does not answer, is a 5xx; the apps say 404.
        assert not [code for code in answers if code >= 500], answers
        assert answers.total() > 20


async def _replaced_twice(ground: Ground, runtime: Runtime, old: Workload) -> None:
    """By other content, and by its own again."""
    for before, one in ((old, new := ground.workload(*OTHER)), (new, ground.workload(variables={"AGAIN": "1"}))):
        await ground.ready(runtime, one)
        await runtime.handlers.stop(before.deployment_id)


async def _ask(ground: Ground, workload: Workload, answers: Counter[int]) -> None:
    """Asks the environment's Service through the API server, over and over, and counts what it answers."""
    path = f"/api/v1/namespaces/{ground.names[workload.deployment_id].namespace}/services/production:http/proxy/"
    while True:
        answers[await ground.status(path)] += 1


def unserved(fake: KubeApi, *, since: int) -> list[int]:
    """The versions of the cluster at which the Service led to no ready pod."""
    release, ready, without = "", dict[str, str](), []
    for version, event, kind, obj in fake.store.history:
        if kind == "services":
            release = "" if event == "DELETED" else obj["spec"]["selector"]["shipoff.dev/release"]
        elif kind == "pods":
            conditions = obj["status"].get("conditions", [])
            well = event != "DELETED" and "deletionTimestamp" not in obj["metadata"]
            well = well and any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
            ready |= {obj["metadata"]["name"]: obj["metadata"]["labels"]["shipoff.dev/release"] if well else ""}
        if version >= since and (not release or release not in ready.values()):
            without.append(version)
    return without


async def test_an_older_deployment_that_becomes_ready_late_takes_nothing_over(ground: Ground, runtime: Runtime) -> None:
    older, newer = ground.workload(), ground.workload(*OTHER)
    await ground.ready(runtime, newer)
    await ground.ready(runtime, older)
    assert await ground.routed(newer) == ground.names[newer.deployment_id].release
    assert isinstance(await ground.told(older, EmitReady), EmitReady)
