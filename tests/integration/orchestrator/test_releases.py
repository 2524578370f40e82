"""Releases that break while they serve, through a running orchestrator, on real PostgreSQL and Valkey."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from neighbours.orchestrator import TEAM, Rig, state_name

from shipoff.common.errors import InvalidInput
from shipoff.common.ids import new_id
from shipoff.common.streams import RUNTIME_EVENTS
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.orchestrator.v1 import orchestrator_pb2
from shipoff.contracts.types.v1 import types_pb2


async def breaks(rig: Rig, deployment_id: str, *, times: int = 1) -> None:
    """The runtime tells that it was ready and keeps crashing."""
    event = events_pb2.WorkloadFailed(deployment_id=deployment_id, reason="crash loop: exit code 1", was_ready=True)
    for _ in range(times):
        await rig.streams.publish(RUNTIME_EVENTS, [event], tenant_id=TEAM)


async def live(rig: Rig, project: str) -> str:
    """A deployment in production."""
    made = await rig.request(project)
    await rig.until(made, "PRODUCTION")
    return made


async def newest(rig: Rig, project: str) -> orchestrator_pb2.Deployment:
    listed = await rig.stub.ListDeployments(orchestrator_pb2.ListDeploymentsRequest(project_id=project, page_size=1))
    return listed.deployments[0]


async def caught_up(rig: Rig) -> None:
    """What was published to the runtime's stream before has been handled."""
    # The readiness of another one comes along the same stream, in order.
    await live(rig, new_id())


async def test_what_breaks_soon_fails_and_the_one_before_is_put_back_with_its_snapshot(rig):
    project = new_id()
    good, bad = await live(rig, project), await live(rig, project)
    await breaks(rig, bad, times=3)
    failed = await rig.until(bad, "FAILED")
    assert failed.reason == "it broke while serving: crash loop: exit code 1; #3 took its place"
    back = await newest(rig, project)
    assert (back.number, state_name(back), back.origin_deployment_id) == (3, "PRODUCTION", good)
    assert back.trigger == types_pb2.TRIGGER_AUTOMATIC_ROLLBACK
    assert back.reason == "puts #1 back, because #2 broke: crash loop: exit code 1"
    assert back.artifact.object_key == f"artifacts/{good}"
    assert rig.builds.calls[back.id] == 0
    assert rig.routed(project) == back.id
    await rig.eventually(lambda: bad in rig.workloads.stopped)


async def test_the_broken_one_keeps_the_route_until_what_is_put_back_answers(rig):
    project = new_id()
    _, bad = await live(rig, project), await live(rig, project)
    rig.workloads.automatic = False
    await breaks(rig, bad)

    async def put_back() -> str:
        found = await newest(rig, project)
        return found.id if found.number == 3 and found.id in rig.workloads.applied else ""

    back = await rig.eventually(put_back)
    assert (await rig.state(bad), rig.routed(project)) == ("PRODUCTION", bad)
    assert bad not in rig.workloads.stopped
    await rig.workloads.ready(back)
    await rig.until(back, "PRODUCTION")
    assert await rig.state(bad) == "FAILED"


async def test_what_was_put_back_and_breaks_too_is_not_rolled_back_again(rig):
    project = new_id()
    await live(rig, project)
    await live(rig, project)
    bad = await live(rig, project)
    await breaks(rig, bad)
    await rig.until(bad, "FAILED")
    back = await newest(rig, project)
    await breaks(rig, back.id)
    await caught_up(rig)
    assert (await newest(rig, project)).id == back.id
    assert await rig.state(back.id) == "PRODUCTION"


async def test_without_an_earlier_release_it_goes_on(rig):
    project = new_id()
    only = await live(rig, project)
    await breaks(rig, only)
    await caught_up(rig)
    assert await rig.state(only) == "PRODUCTION"
    assert (await newest(rig, project)).id == only


async def test_a_newer_one_under_way_goes_on_and_what_it_leaves_undone_is_put_back(rig):
    project = new_id()
    _, bad = await live(rig, project), await live(rig, project)
    rig.builds.automatic = False
    newer = await rig.request(project)
    await rig.until(newer, "BUILDING")
    await breaks(rig, bad)

    async def noticed() -> bool:
        found = await rig.find(bad)
        return bool(found and found.reason.startswith("it broke while serving"))

    await rig.eventually(noticed)
    assert (await newest(rig, project)).id == newer
    await rig.builds.fail(newer, events_pb2.BUILD_FAILURE_COMMAND)
    await rig.until(bad, "FAILED")
    assert (await newest(rig, project)).trigger == types_pb2.TRIGGER_AUTOMATIC_ROLLBACK


async def test_a_release_that_served_for_its_bake_time_is_preferred(rig):
    project = new_id()
    old, short, bad = [await live(rig, project) for _ in range(3)]
    async with rig.database.transaction() as tx:
        earlier = sa.text(
            "UPDATE transitions SET time = time - interval '1 hour' WHERE deployment_id = :id AND to_state = 'production'"
        )
        await tx.execute(earlier, {"id": old})
    await breaks(rig, bad)
    await rig.until(bad, "FAILED")
    assert (await newest(rig, project)).origin_deployment_id == old
    assert await rig.state(short) == "INACTIVE"


@pytest.mark.parametrize("missing", ["hosts", "configuration", "environment"])
async def test_a_promotion_needs_everything_of_its_target(rig, missing):
    made = await live(rig, new_id())
    request = orchestrator_pb2.CreateDeploymentRequest(
        from_deployment_id=made, trigger=types_pb2.TRIGGER_PROMOTE, requested_by="ada", deployment_id=new_id(),
        environment="staging", hosts=["shop-staging.localhost"], configuration=types_pb2.Configuration(version=9),
    )  # fmt: skip
    request.ClearField(missing)
    with pytest.raises(InvalidInput, match=missing if missing != "environment" else "is of production already"):
        await rig.stub.CreateDeployment(request)


async def test_a_promotion_takes_the_artifact_alone(rig):
    project = new_id()
    made = await live(rig, project)
    request = orchestrator_pb2.CreateDeploymentRequest(
        from_deployment_id=made, trigger=types_pb2.TRIGGER_PROMOTE, requested_by="ada", deployment_id=new_id(),
        environment="staging", hosts=["shop-staging.localhost"], configuration=types_pb2.Configuration(version=9),
    )  # fmt: skip
    await rig.stub.CreateDeployment(request)
    promoted = await rig.until(request.deployment_id, "PRODUCTION")
    assert promoted.artifact == (await rig.find(made)).artifact
    assert (promoted.configuration_version, list(promoted.hosts)) == (9, ["shop-staging.localhost"])
    assert rig.builds.calls[promoted.id] == 0
    assert (rig.routed(project), rig.routed(project, "staging")) == (made, promoted.id)


class TestBaked:
    @pytest.fixture
    def orchestrator_settings(self) -> dict[str, object]:
        return {"sweep_s": 0.2, "lease_s": 1.0, "bake_s": 0}

    async def test_after_its_bake_time_nothing_is_put_back(self, rig):
        project = new_id()
        _, bad = await live(rig, project), await live(rig, project)
        await breaks(rig, bad)
        await caught_up(rig)
        assert await rig.state(bad) == "PRODUCTION"
        assert (await newest(rig, project)).id == bad


async def test_a_project_without_automatic_rollback_keeps_what_broke(rig):
    project, configuration = new_id(), types_pb2.Configuration(run=types_pb2.RunSettings(no_automatic_rollback=True))
    await live(rig, project)
    bad = await rig.request(project, configuration=configuration)
    await rig.until(bad, "PRODUCTION")
    await breaks(rig, bad)
    await caught_up(rig)
    assert await rig.state(bad) == "PRODUCTION"
    assert (await newest(rig, project)).id == bad


async def test_another_attempt_of_a_build_is_told_with_its_reason(rig):
    rig.builds.automatic = False
    first = await rig.request(new_id())
    await rig.until(first, "BUILDING")
    await rig.eventually(lambda: (first, 1) in rig.builds.started)
    await rig.builds.fail(first, events_pb2.BUILD_FAILURE_BUILDER_LOST)
    await rig.eventually(lambda: (first, 2) in rig.builds.started)
    (retry,) = (await rig.find(first)).retries
    assert (retry.attempt, retry.reason) == (2, "it broke")
