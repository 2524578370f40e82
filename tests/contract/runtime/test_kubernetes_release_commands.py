"""The release command on Kubernetes: in a pod of its own, before anything of the release runs, once."""

from __future__ import annotations

from typing import Any

from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.core_v1 import Pod
from neighbours.kube_runtime import SERVES, Ground, Runtime, missing_image, until

from shipoff.runtime.domain import EmitFailed, EmitReady, EmitStopped, Phase, Process, Workload
from shipoff.runtime.manifests.marks import DEPLOYMENT, PROCESS

OTHER = (*SERVES, "-h", "/bin")
MIGRATES = ("sh", "-c", "echo the tables are made; sleep 0.5; exit 0")
FAILS = ("sh", "-c", "echo no such column; exit 3")
LASTS = ("sh", "-c", "echo begun; sleep 600")


def migrating(ground: Ground, *command: str, serves: tuple[str, ...] = SERVES, **changes: Any) -> Workload:
    processes = (Process("release", command), Process("web", serves))
    return ground.workload(processes=processes, release_timeout_s=60.0, **changes)


async def commands(ground: Ground, workload: Workload) -> list[Pod]:
    """The pods of its release command, those on their way out left aside."""
    labels = {DEPLOYMENT: workload.deployment_id, PROCESS: "release"}
    namespace = ground.names[workload.deployment_id].namespace
    found = [one async for one in ground.client.list(Pod, namespace=namespace, labels=labels)]
    return [one for one in found if one.metadata.deletionTimestamp is None]


async def deployed(ground: Ground, workload: Workload) -> list[str]:
    names = ground.names[workload.deployment_id]
    found = [one async for one in ground.client.list(Deployment, namespace=names.namespace)]
    return [one.metadata.name for one in found if one.metadata.labels[DEPLOYMENT] == workload.deployment_id]


async def test_it_runs_once_before_the_release_and_is_left_to_be_looked_at(ground: Ground, runtime: Runtime) -> None:
    web = migrating(ground, *MIGRATES)
    await ground.ready(runtime, web)
    assert len(await ground.pods(web)) == 1
    [pod] = await commands(ground, web)
    assert pod.status.phase == "Succeeded"
    assert pod.status.containerStatuses[0].restartCount == 0
    assert pod.spec.securityContext.runAsNonRoot
    await runtime.handlers.restart(web.deployment_id)
    await ground.told(web, EmitReady)
    assert [one.metadata.uid for one in await commands(ground, web)] == [pod.metadata.uid]
    await ground.stopped(runtime, web)
    assert not await commands(ground, web)


async def test_while_it_runs_nothing_of_the_release_is_there_and_the_old_one_serves(ground: Ground, runtime: Runtime) -> None:
    old = ground.workload()
    await ground.ready(runtime, old)
    new = await ground.apply(runtime, migrating(ground, *LASTS, serves=OTHER))
    await until(lambda: any(one.pid for one in ground.store.rows[new.deployment_id][1]))
    assert await deployed(ground, new) == []
    assert await ground.routed(new) == ground.names[old.deployment_id].release
    await ground.stopped(runtime, new)
    assert not await commands(ground, new)
    assert len(await ground.pods(old)) == 1


async def test_one_that_fails_leaves_the_old_release_serving_and_says_what_it_said(ground: Ground, runtime: Runtime) -> None:
    old = ground.workload()
    await ground.ready(runtime, old)
    new = await ground.apply(runtime, migrating(ground, *FAILS, serves=OTHER))
    failed = await ground.told(new, EmitFailed)
    assert failed.reason == "its release command failed: exit code 3 — last lines: no such column"
    await until(lambda: ground.store.rows[new.deployment_id][0].settled)
    assert await deployed(ground, new) == []
    assert await ground.routed(new) == ground.names[old.deployment_id].release


async def test_one_whose_pod_was_deleted_is_not_run_again(ground: Ground, runtime: Runtime) -> None:
    web = await ground.apply(runtime, migrating(ground, *LASTS))
    await until(lambda: any(one.process_started for one in ground.store.rows[web.deployment_id][1]))
    [pod] = await commands(ground, web)
    await ground.client.delete(Pod, pod.metadata.name, namespace=pod.metadata.namespace)
    failed = await ground.told(web, EmitFailed)
    assert "nobody can tell how far it came" in failed.reason


async def test_the_next_runtime_finds_it_running_and_does_not_run_it_again(ground: Ground) -> None:
    async with ground.runtime() as first:
        web = await ground.apply(first, migrating(ground, *MIGRATES))
        await until(lambda: ground.store.rows[web.deployment_id][1] != ())
    async with ground.runtime():
        await ground.told(web, EmitReady)
        assert len(await commands(ground, web)) == 1
        assert ground.store.rows[web.deployment_id][0].phase is Phase.READY


async def test_an_image_that_cannot_be_pulled_is_the_reason_at_the_end_of_its_time(ground: Ground, runtime: Runtime) -> None:
    web = migrating(ground, *MIGRATES, artifact=missing_image())
    failed = await ground.fails(runtime, web, "its image cannot be pulled")
    assert failed.reason.startswith("its release command could not be run within 60 s: its image cannot be pulled")


async def test_one_that_is_called_off_is_gone(ground: Ground, runtime: Runtime) -> None:
    web = await ground.apply(runtime, migrating(ground, *LASTS))
    await until(lambda: any(one.process_started for one in ground.store.rows[web.deployment_id][1]))
    await runtime.handlers.stop(web.deployment_id)
    await ground.told(web, EmitStopped)

    async def gone() -> bool:
        return not await commands(ground, web)

    await until(gone)
