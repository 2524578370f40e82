"""The whole service with the driver `kubernetes`, as its settings choose it, on the small API."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from neighbours.kube_api import KubeApi
from neighbours.kube_nodes import Nodes
from neighbours.runtime import Ground, Runtime

from shipoff.common.errors import InvalidInput
from shipoff.common.ids import new_id
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.runtime.v1 import runtime_pb2
from shipoff.contracts.types.v1 import types_pb2

DIGEST = "sha256:" + "ab" * 32
REFERENCE = f"registry.example/shop@{DIGEST}"


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KubeApi]:
    """The small API, which KUBECONFIG names."""
    api = KubeApi()
    async with api.serving(), Nodes(api).working():
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(api.kubeconfig()))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        yield api


def web(kind: types_pb2.ArtifactKind.ValueType, reference: str = REFERENCE) -> runtime_pb2.Workload:
    return runtime_pb2.Workload(
        deployment_id=new_id(),
        project_id=str(uuid.uuid4()),
        project_name="shop",
        team_id=str(uuid.uuid4()),
        environment="production",
        artifact=types_pb2.Artifact(kind=kind, object_key=reference, digest=DIGEST),
        hosts=["shop.example"],
        port=3000,
    )


async def apply(runtime: Runtime, workload: runtime_pb2.Workload) -> None:
    sealed = runtime.sealer.seal_variables(runtime.sealer.new_data_key(), {"A": "1"}, {})
    workload.configuration.variables.CopyFrom(sealed)
    await runtime.stub.ApplyWorkload(runtime_pb2.ApplyWorkloadRequest(workload=workload))


async def test_an_image_runs_on_the_cluster_and_its_events_reach_the_stream(
    ground: Ground, cluster: KubeApi, eventually
) -> None:
    async with ground.runtime(driver="kubernetes") as runtime:
        workload = web(types_pb2.ARTIFACT_KIND_IMAGE)
        await apply(runtime, workload)
        await eventually(lambda: runtime.events(workload.deployment_id, events_pb2.WorkloadReady), timeout_s=20)
        [ready] = await runtime.events(workload.deployment_id, events_pb2.WorkloadReady)
        [service] = cluster.store.of("services")
        namespace = service["metadata"]["namespace"]
        assert [(one.host, one.port) for one in ready.endpoints] == [(f"production.{namespace}.svc", 80)]
        [deployment] = cluster.store.of("deployments")
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        assert container["image"] == REFERENCE
        assert container["ports"][0]["containerPort"] == 3000
        answer = await runtime.get(workload.deployment_id)
        assert answer.phase == runtime_pb2.WORKLOAD_PHASE_READY
    # The platform's end is not the apps'.
    assert cluster.store.of("deployments")
    async with ground.runtime(driver="kubernetes") as runtime:
        await runtime.stop(workload.deployment_id)
        await eventually(lambda: runtime.events(workload.deployment_id, events_pb2.WorkloadStopped), timeout_s=20)
    assert not cluster.store.of("deployments")


async def test_behind_an_ingress_all_apps_share_its_address(
    ground: Ground, cluster: KubeApi, monkeypatch: pytest.MonkeyPatch, eventually
) -> None:
    monkeypatch.setenv("SHIPOFF_KUBERNETES_INGRESS_ADDRESS", "127.0.0.1:8081")
    async with ground.runtime(driver="kubernetes") as runtime:
        for _ in range(2):
            workload = web(types_pb2.ARTIFACT_KIND_IMAGE)
            workload.configuration.run.replicas = 2
            await apply(runtime, workload)
            await eventually(lambda one=workload: runtime.events(one.deployment_id, events_pb2.WorkloadReady), timeout_s=20)
            [ready] = await runtime.events(workload.deployment_id, events_pb2.WorkloadReady)
            assert [(one.host, one.port) for one in ready.endpoints] == [("127.0.0.1", 8081)]


@pytest.mark.parametrize(
    "wrong", [web(types_pb2.ARTIFACT_KIND_APP), web(types_pb2.ARTIFACT_KIND_IMAGE, "registry.example/shop:latest")]
)
async def test_only_images_by_digest_run_on_a_cluster(ground: Ground, cluster: KubeApi, wrong: runtime_pb2.Workload) -> None:
    async with ground.runtime(driver="kubernetes") as runtime:
        with pytest.raises(InvalidInput):
            await apply(runtime, wrong)
