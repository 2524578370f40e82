"""Deployments through a running orchestrator, on real PostgreSQL and Valkey."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from shipoff.common.errors import PreconditionFailed
from shipoff.common.ids import new_id
from shipoff.common.streams import DEPLOYMENT_QUEUE
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.orchestrator.v1 import orchestrator_pb2
from shipoff.contracts.types.v1 import types_pb2


def states(deployment: orchestrator_pb2.Deployment) -> list[str]:
    return [types_pb2.DeploymentState.Name(t.to_state).removeprefix("DEPLOYMENT_STATE_") for t in deployment.transitions]


async def reserved(rig) -> tuple[int, int]:
    row = await rig.database.one_or_none(sa.text("SELECT cpu_millis_reserved AS c, memory_bytes_reserved AS m FROM budget"))
    return row["c"], row["m"]


async def test_a_request_passes_every_state_and_serves(rig):
    project = new_id()
    first = await rig.request(project)
    deployment = await rig.until(first, "PRODUCTION")
    assert states(deployment) == ["BUILDING", "PROVISIONING", "PRODUCTION"]
    assert deployment.number == 1
    assert rig.routed(project) == first
    # What serves holds what its one instance reserves, and nothing of the build's.
    assert await reserved(rig) == (100, 256 << 20)


async def test_a_static_release_is_published_before_it_is_routed(rig):
    rig.builds.static = True
    project = new_id()
    first = await rig.request(project)
    await rig.until(first, "PRODUCTION")
    assert rig.edge.published == [first]
    assert rig.edge.routes[project, "production"].HasField("static")


async def test_the_old_one_serves_until_the_new_one_is_routed_and_stops_afterwards(rig):
    project = new_id()
    old = await rig.request(project)
    await rig.until(old, "PRODUCTION")
    rig.workloads.automatic = False
    new = await rig.request(project)
    await rig.until(new, "PROVISIONING")
    assert rig.routed(project) == old
    assert rig.workloads.stopped == []
    await rig.workloads.ready(new)
    await rig.until(new, "PRODUCTION")
    replaced = await rig.until(old, "INACTIVE")
    assert replaced.reason == "replaced by #2"
    await rig.eventually(lambda: rig.workloads.stopped == [old])


async def test_a_failed_build_fails_with_its_reason_and_frees_the_slot(rig):
    rig.builds.automatic = False
    first = await rig.request(new_id())
    await rig.until(first, "BUILDING")
    assert await reserved(rig) != (0, 0)
    await rig.builds.fail(first, events_pb2.BUILD_FAILURE_COMMAND)
    deployment = await rig.until(first, "FAILED")
    assert deployment.reason == "it broke"
    assert await reserved(rig) == (0, 0)


async def test_a_lost_builder_is_worth_another_attempt_and_the_old_one_counts_no_more(rig):
    rig.builds.automatic = False
    first = await rig.request(new_id())
    await rig.until(first, "BUILDING")
    await rig.eventually(lambda: (first, 1) in rig.builds.started)
    await rig.builds.fail(first, events_pb2.BUILD_FAILURE_BUILDER_LOST)
    await rig.eventually(lambda: (first, 2) in rig.builds.started)
    await rig.builds.succeed(first, 1)
    assert await rig.state(first) == "BUILDING"
    await rig.builds.succeed(first, 2)
    await rig.until(first, "PRODUCTION")


async def test_a_newer_one_supersedes_what_is_queued_and_built(rig):
    rig.builds.automatic = False
    project = new_id()
    first = await rig.request(project)
    await rig.until(first, "BUILDING")
    second = await rig.request(project)
    superseded = await rig.until(first, "INACTIVE")
    assert superseded.reason == "superseded by #2"
    await rig.eventually(lambda: (first, 1) in rig.builds.cancelled)
    await rig.until(second, "BUILDING")


async def test_an_older_request_that_arrives_late_does_not_replace_a_newer_one(rig):
    project, before = new_id(), datetime.now(UTC)
    newer = await rig.request(project)
    await rig.until(newer, "PRODUCTION")
    older = await rig.request(project, accepted_at=before)
    late = await rig.until(older, "INACTIVE")
    assert late.reason == "superseded by #1"
    assert rig.routed(project) == newer


async def test_every_event_a_hundred_times_happens_once(rig):
    rig.builds.automatic = False
    project = new_id()
    first = await rig.request(project, times=100)
    await rig.until(first, "BUILDING")
    await rig.eventually(lambda: (first, 1) in rig.builds.started)
    await rig.builds.succeed(first, times=100)
    deployment = await rig.until(first, "PRODUCTION")
    assert states(deployment) == ["BUILDING", "PROVISIONING", "PRODUCTION"]
    assert rig.workloads.applied == [first]
    assert rig.builds.calls[first] == 1


async def test_a_cancel_stops_the_build_and_frees_the_slot(rig):
    rig.builds.automatic = False
    first = await rig.request(new_id())
    await rig.until(first, "BUILDING")
    await rig.stub.CancelDeployment(orchestrator_pb2.CancelDeploymentRequest(deployment_id=first, cancelled_by="ada"))
    deployment = await rig.until(first, "INACTIVE")
    assert deployment.reason == "cancelled by ada"
    assert deployment.transitions[-1].actor == "ada"
    await rig.eventually(lambda: (first, 1) in rig.builds.cancelled)
    assert await reserved(rig) == (0, 0)
    with pytest.raises(PreconditionFailed, match="inactive already"):
        await rig.stub.CancelDeployment(orchestrator_pb2.CancelDeploymentRequest(deployment_id=first))


async def test_a_rollback_serves_the_old_artifact_without_a_build(rig):
    project = new_id()
    old = await rig.request(project)
    await rig.until(old, "PRODUCTION")
    new = await rig.request(project)
    await rig.until(new, "PRODUCTION")
    back = new_id()
    request = orchestrator_pb2.CreateDeploymentRequest(
        from_deployment_id=old, trigger=types_pb2.TRIGGER_ROLLBACK, requested_by="ada", deployment_id=back
    )
    await rig.stub.CreateDeployment(request)
    deployment = await rig.until(back, "PRODUCTION")
    assert states(deployment) == ["PROVISIONING", "PRODUCTION"]
    assert deployment.artifact.object_key == f"artifacts/{old}"
    assert rig.builds.calls[back] == 0
    assert (await rig.stub.CreateDeployment(request)).deployment.number == deployment.number


async def test_ids_that_do_not_sort_by_time_make_nothing_older(rig):
    project = new_id()
    first = await rig.request(project)
    await rig.until(first, "PRODUCTION")
    back = "ffffffff-ffff-5fff-bfff-ffffffffffff"
    await rig.stub.CreateDeployment(
        orchestrator_pb2.CreateDeploymentRequest(
            from_deployment_id=first, trigger=types_pb2.TRIGGER_ROLLBACK, deployment_id=back
        )
    )
    await rig.until(back, "PRODUCTION")
    third = await rig.request(project)
    await rig.until(third, "PRODUCTION")
    assert rig.routed(project) == third


async def test_a_deleted_project_is_taken_down_whole(rig):
    project = new_id()
    serving = await rig.request(project)
    await rig.until(serving, "PRODUCTION")
    rig.builds.automatic = False
    building = await rig.request(project)
    await rig.until(building, "BUILDING")
    deleted = events_pb2.ProjectDeleted(project_id=project, team_id="t", deleted_by="ada")
    await rig.streams.publish(DEPLOYMENT_QUEUE, [deleted], tenant_id="t")
    for deployment_id in (serving, building):
        await rig.until(deployment_id, "INACTIVE")
    await rig.eventually(lambda: rig.routed(project) == "" and rig.workloads.stopped == [serving])


class TestDeadlines:
    """What takes too long fails with that reason."""

    @pytest.fixture
    def orchestrator_settings(self):
        return {"sweep_s": 0.1, "provision_timeout_s": 1}

    async def test_a_workload_that_never_gets_ready_fails_and_the_old_one_serves_on(self, rig):
        project = new_id()
        old = await rig.request(project)
        await rig.until(old, "PRODUCTION")
        rig.workloads.automatic = False
        new = await rig.request(project)
        deployment = await rig.until(new, "FAILED")
        assert deployment.reason == "it never became ready within 1 s"
        assert await rig.state(old) == "PRODUCTION"
        assert rig.routed(project) == old
        await rig.eventually(lambda: rig.workloads.stopped == [new])


class TestReleaseCommands:
    """Their time is their own, and going back runs none."""

    @pytest.fixture
    def orchestrator_settings(self):
        return {"sweep_s": 0.1, "provision_timeout_s": 1, "release_timeout_s": 2}

    async def test_a_plan_with_one_has_its_time_on_top_of_becoming_ready(self, rig):
        rig.builds.processes = ["release", "web"]
        rig.workloads.automatic = False
        deployment = await rig.until(new := await rig.request(new_id()), "FAILED")
        assert deployment.reason == "it never became ready within 3 s"
        assert rig.workloads.release_timeouts[new] == 2

    async def test_an_earlier_release_comes_back_without_it_and_a_redeploy_runs_it(self, rig):
        rig.builds.processes = ["release", "web"]
        project = new_id()
        first = await rig.request(project)
        await rig.until(first, "PRODUCTION")
        again = {}
        for trigger in (types_pb2.TRIGGER_REDEPLOY, types_pb2.TRIGGER_ROLLBACK):
            request = orchestrator_pb2.CreateDeploymentRequest(
                from_deployment_id=first, trigger=trigger, deployment_id=new_id()
            )
            again[trigger] = (await rig.stub.CreateDeployment(request)).deployment.id
            await rig.until(again[trigger], "PRODUCTION")
        assert rig.workloads.release_timeouts == {
            first: 2, again[types_pb2.TRIGGER_REDEPLOY]: 2, again[types_pb2.TRIGGER_ROLLBACK]: 0
        }  # fmt: skip


async def test_the_database_itself_refuses_a_second_production_and_an_illegal_transition(rig):
    project = new_id()
    first = await rig.request(project)
    await rig.until(first, "PRODUCTION")
    second = await rig.request(project)
    await rig.until(second, "PRODUCTION")
    with pytest.raises(Exception, match="one_production"):
        async with rig.database.transaction() as tx:
            await tx.execute(sa.text("UPDATE deployments SET state = 'production' WHERE id = :id"), {"id": first})
    with pytest.raises(PreconditionFailed):
        async with rig.database.transaction() as tx:
            await tx.execute(
                sa.text("INSERT INTO transitions VALUES (:id, 99, 'failed', 'production', '', 'x', now())"), {"id": first}
            )
    with pytest.raises(PreconditionFailed):
        async with rig.database.transaction() as tx:
            await tx.execute(sa.text("UPDATE budget SET cpu_millis_reserved = cpu_millis + 1"))
