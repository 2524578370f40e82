"""One-off commands on a cluster: pods of their own, followed and removed."""

from __future__ import annotations

import pytest
from lightkube.resources.core_v1 import Pod
from neighbours.kube_api import KubeApi
from neighbours.kube_runtime import Ground, Runtime, until

from shipoff.runtime.adapters.kubernetes.commands import _HELD_S
from shipoff.runtime.domain import Command, Exited, Output, Workload
from shipoff.runtime.manifests.marks import COMMAND


async def ran(runtime: Runtime, workload: Workload, *argv: str, limit_s: float = 100.0) -> tuple[str, Exited]:
    text = ""
    async with runtime.commands.running(workload.deployment_id, Command(argv, limit_s)) as running:
        async for event in running.events():
            if isinstance(event, Exited):
                return text, event
            text += event.data.decode()
    raise AssertionError("it never ended")


async def command_pods(ground: Ground, workload: Workload) -> list[Pod]:
    namespace = ground.names[workload.deployment_id].namespace
    return [one async for one in ground.client.list(Pod, namespace=namespace) if COMMAND in one.metadata.labels]


async def test_a_command_runs_in_a_pod_of_the_release_and_nothing_is_left(ground: Ground, runtime: Runtime) -> None:
    workload = ground.workload(variables={"GREETING": "good morning"})
    await ground.ready(runtime, workload)
    text, exited = await ran(runtime, workload, "sh", "-c", 'echo "$GREETING"; echo oh >&2; exit 3')
    assert text == "good morning\noh\n"
    assert exited == Exited(3)
    text, exited = await ran(runtime, workload, "echo", "$(id); *", "$PATHS")
    assert (text, exited) == ("$(id); * $PATHS\n", Exited(0))

    async def none_left() -> bool:
        return not await command_pods(ground, workload)

    await until(none_left, "the commands' pods are still there")
    assert len(await ground.pods(workload)) == 1


async def test_the_pod_of_a_command_takes_no_requests_and_has_no_privileges(ground: Ground, runtime: Runtime) -> None:
    workload = ground.workload()
    await ground.ready(runtime, workload)
    async with runtime.commands.running(workload.deployment_id, Command(("sleep", "600"), 100.0)):
        [pod] = await command_pods(ground, workload)
        [instance] = await ground.pods(workload)
        spec = pod.spec
        assert spec.restartPolicy == "Never"
        assert spec.activeDeadlineSeconds == 100
        assert spec.containers[0].securityContext == instance.spec.containers[0].securityContext
        assert spec.containers[0].resources == instance.spec.containers[0].resources
        assert spec.containers[0].readinessProbe is None
        assert spec.automountServiceAccountToken is False


async def test_a_command_ends_when_it_is_interrupted_or_takes_too_long(ground: Ground, runtime: Runtime) -> None:
    workload = ground.workload()
    await ground.ready(runtime, workload)
    # A program that handles SIGTERM, as the first of its container.
    waits = ("sh", "-c", "trap 'exit 9' TERM; echo up; sleep 600 & wait")
    async with runtime.commands.running(workload.deployment_id, Command(waits, 100.0)) as running:
        events = running.events()
        assert isinstance(await anext(events), Output)
        await running.interrupt()
        assert (await anext(events)).code in (9, 130)
    _, exited = await ran(runtime, workload, "sleep", "600", limit_s=1.0)
    assert exited == Exited(124, "it took longer than its 1 s")


async def test_the_pod_of_a_command_whose_runtime_died_is_collected(
    ground: Ground, runtime: Runtime, fake: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = ground.workload()
    await ground.ready(runtime, workload)
    lost = runtime.commands.running(workload.deployment_id, Command(("sleep", "600"), 100.0))
    running = await lost.__aenter__()
    monkeypatch.setattr(running, "close", _nothing)
    await lost.__aexit__(None, None, None)
    for task in running._tasks:
        task.cancel()
    await runtime.driver._collect()
    assert len(await command_pods(ground, workload)) == 1
    ground.ahead_s += _HELD_S + 1
    await runtime.driver._collect()

    async def none_left() -> bool:
        return not await command_pods(ground, workload)

    await until(none_left, "it is still there")


async def _nothing() -> None:
    pass
