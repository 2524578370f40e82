"""Apps on a cluster reserve what it has, builds what their machine has: through a running orchestrator."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from shipoff.common.errors import PreconditionFailed
from shipoff.common.ids import new_id
from shipoff.contracts.orchestrator.v1 import orchestrator_pb2
from shipoff.contracts.types.v1 import types_pb2

GIB = 1 << 30
MIB = 1 << 20


@pytest.fixture
def orchestrator_settings() -> dict[str, object]:
    """Room for one build at a time, and none for apps but on the cluster."""
    return {
        "SHIPOFF_RUNTIME_DRIVER": "kubernetes",
        **{"sweep_s": 0.2, "lease_s": 1.0, "budget_cpu_millis": 1000, "budget_memory_bytes": 2 * GIB},
    }


async def reserved(rig) -> tuple[int, ...]:
    row = await rig.database.one_or_none(
        sa.text(
            "SELECT cpu_millis_reserved, memory_bytes_reserved, cluster_cpu_millis_reserved, cluster_memory_bytes_reserved"
            " FROM budget"
        )
    )
    return tuple(row.values())


def app(cpu_millis: int = 1000, memory_bytes: int = GIB) -> types_pb2.Configuration:
    return types_pb2.Configuration(run=types_pb2.RunSettings(cpu_millis=cpu_millis, memory_bytes=memory_bytes))


async def test_apps_beyond_the_machine_run_while_the_cluster_has_room(rig):
    rig.workloads.capacity = types_pb2.Resources(cpu_millis=4000, memory_bytes=3 * GIB)
    served = [await rig.request(new_id(), configuration=app()) for _ in range(3)]
    for one in served:
        await rig.until(one, "PRODUCTION")
    assert await reserved(rig) == (0, 0, 3000, 3 * GIB)
    fourth = await rig.request(new_id(), configuration=app())
    await rig.until(fourth, "QUEUED")
    answer = await rig.stub.ListQueue(orchestrator_pb2.ListQueueRequest())
    assert answer.entries[0].waits_for == "1.1 GB of the cluster held by running apps: scale down or remove one"
    assert (answer.budget.cluster_cpu_millis, answer.reserved.cluster_memory_bytes) == (4000, 3 * GIB)
    with pytest.raises(PreconditionFailed, match="no room for 2 instances"):
        await rig.stub.ScaleDeployment(orchestrator_pb2.ScaleDeploymentRequest(deployment_id=served[0], replicas=2))


async def test_a_build_reserves_both_and_keeps_the_cluster_s_part(rig):
    rig.workloads.capacity = types_pb2.Resources(cpu_millis=4000, memory_bytes=3 * GIB)
    rig.builds.automatic = False
    first = await rig.request(new_id(), configuration=app())
    await rig.until(first, "BUILDING")
    assert await reserved(rig) == (1000, 2 * GIB, 1000, GIB)
    await rig.builds.succeed(first)
    await rig.until(first, "PRODUCTION")
    assert await reserved(rig) == (0, 0, 1000, GIB)


async def test_what_the_whole_cluster_has_no_room_for_is_refused(rig):
    rig.workloads.capacity = types_pb2.Resources(cpu_millis=4000, memory_bytes=3 * GIB)
    await rig.until(await rig.request(new_id(), configuration=app()), "PRODUCTION")
    failed = await rig.until(await rig.request(new_id(), configuration=app(5000)), "FAILED")
    assert failed.reason.startswith("its instances need 1.1 GB and 5.0 cores, the cluster has 3.2 GB and 4.0 cores to give")


async def test_apps_wait_until_the_cluster_has_said_what_it_has(rig, monkeypatch: pytest.MonkeyPatch):
    waiting = await rig.request(new_id(), configuration=app())
    await rig.until(waiting, "QUEUED")
    rig.workloads.capacity = types_pb2.Resources(cpu_millis=4000, memory_bytes=3 * GIB)
    await rig.until(waiting, "PRODUCTION")


async def test_an_app_that_says_nothing_reserves_what_its_pods_request(rig):
    rig.workloads.capacity = types_pb2.Resources(cpu_millis=4000, memory_bytes=3 * GIB)
    await rig.until(await rig.request(new_id()), "PRODUCTION")
    assert await reserved(rig) == (0, 0, 100, 512 * MIB)
