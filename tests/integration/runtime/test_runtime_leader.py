"""Several runtimes on one cluster: one looks after it, another takes over, and what comes too late is not written."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace as with_
from pathlib import Path

import pytest
import yaml
from neighbours.kube_api import KubeApi
from neighbours.kube_nodes import Nodes
from neighbours.runtime import Ground, Runtime
from neighbours.runtime_workloads import workload

from shipoff.common.errors import Unavailable
from shipoff.common.ids import new_id
from shipoff.common.outbox import Outbox
from shipoff.common.postgres import Database
from shipoff.common.streams import RUNTIME_EVENTS, Streams
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.runtime.v1 import runtime_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.runtime.adapters.lease import Lease
from shipoff.runtime.adapters.postgres import PostgresStore

_LEASE_S = 2.0
# On a machine with nothing else to do it is two seconds at most: a look at the lease, and reading the cluster.
_TAKES_OVER_S = 15.0


async def test_a_lease_has_one_holder_and_what_an_earlier_one_writes_is_refused(
    database_url_for, redis_url: str, eventually
) -> None:
    url = await database_url_for("runtime")
    async with Database.open(url) as database, Streams.open(redis_url) as streams:
        outbox = Outbox(database, streams, producing=[RUNTIME_EVENTS])
        first, second = (Lease(database, "reconciler", lease_s=0.5) for _ in range(2))
        plain, fenced = PostgresStore(database, outbox), PostgresStore(database, outbox, check=first.check)
        wanted = workload(deployment_id=new_id(), project_id=new_id(), team_id=new_id(), variables=b"")
        await plain.insert(wanted)
        assert await first.acquire()
        assert not await second.acquire()
        assert await first.renew()
        saved = await fenced.save(wanted)
        assert first.is_held()
        await eventually(second.acquire)
        assert not first.is_held()
        assert not await first.renew()
        with pytest.raises(Unavailable):
            await fenced.save(saved)
        # Its turn comes again, under another fence.
        await first.release()
        assert second.is_held()
        await second.release()
        assert await first.acquire()
        await fenced.save(saved)


@pytest.fixture
async def cluster(tmp_path: Path):
    api = KubeApi()
    async with api.serving(), Nodes(api).working():
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(api.kubeconfig()))
        yield api, str(tmp_path / "kubeconfig")


async def test_a_runtime_that_dies_or_stands_still_is_followed_by_the_other_and_never_fights_it(
    ground: Ground, cluster: tuple[KubeApi, str], eventually
) -> None:
    api, kubeconfig = cluster
    variables = {
        "KUBECONFIG": kubeconfig, "SHIPOFF_RUNTIME_DRIVER": "kubernetes", "SHIPOFF_RUNTIME_LEASE_S": str(_LEASE_S),
    }  # fmt: skip
    there = f"{ground.settings.listen}.b"
    other = with_(ground, settings=ground.settings.model_copy(update={"listen": there}))
    async with ground.process(**variables) as first, ground.client() as one:
        deployment_id = await applied(one)
        await eventually(lambda: one.events(deployment_id, events_pb2.WorkloadReady), timeout_s=30)
        async with other.process(**variables) as second, other.client() as two:
            # What the one that waits is told reaches the one that leads.
            await two.scale(deployment_id, 2)
            await eventually(lambda: replicas(api) == 2, timeout_s=30)

            first.send_signal(signal.SIGSTOP)
            await two.scale(deployment_id, 3)
            await within(_LEASE_S + _TAKES_OVER_S, api, 3)
            first.send_signal(signal.SIGCONT)
            await one.scale(deployment_id, 4)
            await eventually(lambda: replicas(api) == 4, timeout_s=30)
            numbers = [obj["spec"]["replicas"] for *_, kind, obj in api.store.history if kind == "deployments"]
            assert numbers == sorted(numbers), "an earlier leader undid what a later one did"

            second.kill()
            await second.wait()
            await one.scale(deployment_id, 5)
            await within(_LEASE_S + _TAKES_OVER_S, api, 5)


async def applied(runtime: Runtime) -> str:
    digest = "sha256:" + "ab" * 32
    artifact = types_pb2.Artifact(
        kind=types_pb2.ARTIFACT_KIND_IMAGE, object_key=f"registry.example/shop@{digest}", digest=digest
    )
    wanted = runtime_pb2.Workload(
        deployment_id=new_id(), project_id=new_id(), project_name="shop", team_id=new_id(), environment="production",
        artifact=artifact, port=3000,
    )  # fmt: skip
    wanted.configuration.variables.CopyFrom(runtime.sealer.seal_variables(runtime.sealer.new_data_key(), {"A": "1"}, {}))
    await runtime.stub.ApplyWorkload(runtime_pb2.ApplyWorkloadRequest(workload=wanted))
    return wanted.deployment_id


def replicas(api: KubeApi) -> int:
    return sum(one["spec"]["replicas"] for one in api.store.of("deployments"))


async def within(seconds: float, api: KubeApi, number: int) -> None:
    """Waits until the Deployments want so many instances; fails when that takes longer."""
    async with asyncio.timeout(seconds):
        while replicas(api) != number:
            async with api.store.changed:
                await api.store.changed.wait()
