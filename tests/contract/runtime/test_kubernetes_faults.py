"""What Kubernetes answers on bad days, what others delete, and a runtime that dies: rows 3, 22 and 23 of the faults."""

from __future__ import annotations

import os
import time

import pytest
from lightkube.models.core_v1 import ServiceSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.core_v1 import Namespace, Pod, Service
from lightkube.resources.networking_v1 import NetworkPolicy
from neighbours.kube_api import KubeApi
from neighbours.kube_nodes import Nodes
from neighbours.kube_runtime import SERVES, Ground, Runtime, until

from shipoff.common.errors import Unavailable
from shipoff.runtime.adapters.kubernetes import driver as kubernetes
from shipoff.runtime.adapters.kubernetes import mirror
from shipoff.runtime.domain import EmitFailed, Phase, Workload

OTHER = (*SERVES, "-h", "/bin")


async def serves(ground: Ground, workload: Workload) -> bool:
    """Whether its Service leads to a ready pod."""
    return await ground.routed(workload) == ground.names[workload.deployment_id].release and bool(await ground.pods(workload))


async def test_a_deleted_pod_comes_back(ground: Ground, runtime: Runtime) -> None:
    web = ground.workload()
    await ground.ready(runtime, web)
    [pod] = await ground.pods(web)
    await ground.client.delete(Pod, pod.metadata.name, namespace=pod.metadata.namespace)

    async def back() -> bool:
        pods = await ground.pods(web)
        return bool(pods) and all(one.metadata.uid != pod.metadata.uid for one in pods)

    began = time.monotonic()
    await until(back)
    assert time.monotonic() - began < 30
    await until(lambda: ground.store.rows[web.deployment_id][0].phase is Phase.READY)
    assert not [one for _, one in ground.store.emissions if isinstance(one, EmitFailed)]


@pytest.mark.parametrize(
    ("kind", "name"), [(Service, "production"), (NetworkPolicy, "deny-all"), (Deployment, "the release's")]
)
async def test_a_deleted_object_comes_back(ground: Ground, runtime: Runtime, kind: type, name: str) -> None:
    web = ground.workload()
    await ground.ready(runtime, web)
    names = ground.names[web.deployment_id]
    name = names.process("web") if kind is Deployment else name
    before = await ground.client.get(kind, name, namespace=names.namespace)
    await ground.client.delete(kind, name, namespace=names.namespace)

    async def back() -> bool:
        found = [one async for one in ground.client.list(kind, namespace=names.namespace) if one.metadata.name == name]
        return bool(found) and found[0].metadata.uid != before.metadata.uid and await serves(ground, web)

    began = time.monotonic()
    await until(back)
    assert time.monotonic() - began < 30


async def test_instances_are_not_handed_over_to_a_deployment_that_is_another_by_now(ground: Ground, runtime: Runtime) -> None:
    web = ground.workload()
    await ground.ready(runtime, web)
    name, namespace = ground.names[web.deployment_id].process("web"), ground.names[web.deployment_id].namespace
    before = await ground.client.get(Deployment, name, namespace=namespace)
    await ground.client.delete(Deployment, name, namespace=namespace)
    with pytest.raises(Unavailable, match=r"409|immutable"):
        await runtime.driver._api.hand_over(before, 2)
    await until(lambda: serves(ground, web))
    assert len(await ground.pods(web)) == 1


async def test_a_deleted_namespace_comes_back_with_everything_in_it(ground: Ground, runtime: Runtime) -> None:
    web = ground.workload(variables={"A": "1"})
    await ground.ready(runtime, web)
    namespace = ground.names[web.deployment_id].namespace
    before = await ground.client.get(Namespace, namespace)
    await ground.client.delete(Namespace, namespace)

    async def back() -> bool:
        found = [one async for one in ground.client.list(Namespace) if one.metadata.name == namespace]
        return bool(found) and found[0].metadata.uid != before.metadata.uid and await serves(ground, web)

    await until(back)
    await until(lambda: ground.store.rows[web.deployment_id][0].phase is Phase.READY)


async def test_a_service_that_somebody_pointed_elsewhere_is_pointed_back(ground: Ground, runtime: Runtime) -> None:
    web = ground.workload()
    await ground.ready(runtime, web)
    namespace = ground.names[web.deployment_id].namespace
    meddled = Service(
        metadata=ObjectMeta(name="production", namespace=namespace, annotations={"shipoff.dev/applied": "meddled"}),
        spec=ServiceSpec(selector={"shipoff.dev/release": "nobody"}),
    )
    await ground.client.apply(meddled, field_manager="somebody", force=True)
    await until(lambda: serves(ground, web))


async def test_an_app_that_stops_answering_is_replaced_and_told_to_be_broken(
    ground: Ground, runtime: Runtime, nodes: Nodes
) -> None:
    web = ground.workload()
    await ground.ready(runtime, web)
    nodes.ready_after_s = 3600.0
    for pod in nodes.api.store.of("pods"):
        nodes.make_unready(pod)
    failed = await ground.told(web, EmitFailed)
    assert failed.was_ready
    assert failed.reason.startswith("nothing of it has been ready for")


async def test_an_idle_cluster_is_asked_nothing(ground: Ground, runtime: Runtime, fake: KubeApi) -> None:
    apps = [ground.workload(*SERVES, "-h", f"/{number}", environment=f"e{number}") for number in range(5)]
    for app in apps:
        await ground.ready(runtime, app)
    await until(lambda: all(not one.busy for one in runtime.reconciler._known.values()))
    before = len(fake.requests)
    looks = 0
    for _ in range(20):
        for app in apps:
            workload, instances = ground.store.rows[app.deployment_id]
            seen = await runtime.driver.observe(workload, instances, probe=[one.key for one in instances])
            looks += not seen.astray and seen.routed
    assert looks == 100
    assert fake.requests[before:] == []


async def test_a_deployment_takes_a_constant_number_of_requests(ground: Ground, runtime: Runtime, fake: KubeApi) -> None:
    counts = []
    for number in range(4):
        before = len(fake.writes)
        await ground.ready(runtime, ground.workload(*SERVES, "-h", f"/{number}"))
        counts.append(len(fake.writes) - before)
    # The first brings the project's objects too; a further one its Deployment, its route, and what it has of its own.
    assert counts[0] <= 15
    assert set(counts[1:]) == {counts[1]}
    assert counts[1] <= 6


@pytest.mark.parametrize("code", [409, 500, 503, 504])
async def test_errors_of_the_moment_are_tried_again(ground: Ground, fake: KubeApi, runtime: Runtime, code: int) -> None:
    fake.fail("PATCH", "/deployments", code, times=2)
    fake.fail("PATCH", "/services", code, times=2)
    web = ground.workload()
    await ground.ready(runtime, web)
    assert await serves(ground, web)


async def test_nothing_is_asked_before_the_time_that_a_429_names(ground: Ground, fake: KubeApi, runtime: Runtime) -> None:
    fault = fake.fail("PATCH", "/namespaces", 429, Retry_After="1")
    web = await ground.apply(runtime, ground.workload())
    await until(lambda: not fault.times)
    closed, began = len(fake.writes), time.monotonic()
    await until(lambda: len(fake.writes) > closed)
    assert time.monotonic() - began > 0.8
    await until(lambda: serves(ground, web))


async def test_an_answer_that_never_came_is_asked_for_again_and_done_once(ground: Ground, fake: KubeApi) -> None:
    ground._timeout_s = 1.5
    fake.fail("PATCH", "/deployments", 0, done=True)
    async with ground.runtime() as runtime:
        web = ground.workload()
        await ground.ready(runtime, web)
        assert len(fake.store.of("deployments")) == 1
        assert len(fake.store.of("pods")) == 1


@pytest.mark.parametrize("inside", [True, False])
async def test_a_watch_that_is_too_old_is_begun_with_a_list(
    ground: Ground, fake: KubeApi, runtime: Runtime, inside: bool
) -> None:
    web = ground.workload()
    await ground.ready(runtime, web)
    lists = fake.requests.count(("GET", "/api/v1/pods"))
    fake.forget_history() if inside else fake.fail("GET", "/api/v1/pods", 410)
    fake.cut_watches()
    await until(lambda: fake.requests.count(("GET", "/api/v1/pods")) > lists + 1)
    [pod] = await ground.pods(web)
    await ground.client.delete(Pod, pod.metadata.name, namespace=pod.metadata.namespace)

    async def back() -> bool:
        return any(one.metadata.uid != pod.metadata.uid for one in await ground.pods(web))

    await until(back)
    await until(lambda: ground.store.rows[web.deployment_id][0].phase is Phase.READY)


async def test_what_happened_while_no_watch_listened_is_found(ground: Ground, fake: KubeApi, runtime: Runtime) -> None:
    web = ground.workload()
    await ground.ready(runtime, web)
    fake.fail("GET", "/api/v1/services", 500, times=3)
    fake.cut_watches()
    fake.store.delete(("services", ground.names[web.deployment_id].namespace, "production"))
    await until(lambda: serves(ground, web))


async def test_a_cluster_that_is_away_is_waited_for(ground: Ground, fake: KubeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "_FIRST_LOOK_S", 0.1)
    faults = [fake.fail(method, "/", 503, times=10_000) for method in ("GET", "PATCH")]
    async with ground.runtime() as runtime:
        web = await ground.apply(runtime, ground.workload())
        for fault in faults:
            fault.times = 0
        await until(lambda: serves(ground, web))


async def test_the_next_runtime_finds_what_the_last_one_left(ground: Ground) -> None:
    async with ground.runtime() as first:
        web = ground.workload()
        await ground.ready(first, web)
    before = [one.metadata.uid for one in await ground.pods(web)]
    async with ground.runtime() as second:
        await until(lambda: web.deployment_id in second.reconciler._known)
        assert ground.store.rows[web.deployment_id][0].phase is Phase.READY
        assert [one.metadata.uid for one in await ground.pods(web)] == before
        await ground.stopped(second, web)
    assert not await ground.pods(web, ready=False)


async def test_a_runtime_that_dies_between_any_two_effects_is_followed_by_one_that_ends_the_same(
    fake: KubeApi, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = await _crossings(ground, fake, monkeypatch, stop_at=0)
    assert points > 10
    every = 1 if os.environ.get("SHIPOFF_EVERY_POINT") else points // 4
    for point in range(1, points + 1, every):
        await _crossings(ground, fake, monkeypatch, stop_at=point)


async def _crossings(ground: Ground, fake: KubeApi, monkeypatch: pytest.MonkeyPatch, *, stop_at: int) -> int:
    """Deploys twice; from its n-th effect on, the first runtime does nothing any more. How many effects there were."""
    ground.store.rows.clear()
    ground.store.emissions.clear()
    crossed = 0

    def crossing(_: str) -> None:
        nonlocal crossed
        crossed += 1
        if stop_at and crossed >= stop_at:
            raise Unavailable("dead")

    old, new = ground.workload(), ground.workload(*OTHER)
    monkeypatch.setattr(kubernetes, "crossing", crossing)
    async with ground.runtime() as first:
        old = await ground.apply(first, old)
        new_applied = False
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and not (stop_at and crossed >= stop_at):
            if not new_applied and await serves(ground, old):
                new, new_applied = await ground.apply(first, new), True
            if new_applied and await serves(ground, new):
                break
    monkeypatch.setattr(kubernetes, "crossing", lambda _: None)
    async with ground.runtime(drain_s=0.05) as second:
        if not new_applied:
            new = await ground.apply(second, new)
        await until(lambda: serves(ground, new))
        await ground.stopped(second, old)
        assert len(fake.store.of("deployments")) == 1
        assert len(fake.store.of("secrets")) == 1
        await ground.stopped(second, new)
    assert [key for key in fake.store.objects if key[1]] == []
    return crossed
