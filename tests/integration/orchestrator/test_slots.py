"""The budget and the queue through a running orchestrator, on real PostgreSQL and Valkey."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from shipoff.common.errors import PreconditionFailed
from shipoff.common.ids import new_id
from shipoff.common.streams import DEPLOYMENT_QUEUE
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.orchestrator.v1 import orchestrator_pb2
from shipoff.contracts.types.v1 import types_pb2

GIB = 1 << 30
MIB = 1 << 20
OUT_OF_MEMORY = events_pb2.BUILD_FAILURE_OUT_OF_MEMORY


async def reserved(rig) -> tuple[int, int]:
    row = await rig.database.one_or_none(sa.text("SELECT cpu_millis_reserved AS c, memory_bytes_reserved AS m FROM budget"))
    return row["c"], row["m"]


async def queue(rig, *teams: str) -> list[orchestrator_pb2.QueueEntry]:
    return list((await rig.stub.ListQueue(orchestrator_pb2.ListQueueRequest(team_ids=teams))).entries)


@pytest.fixture
def orchestrator_settings():
    """Room for one first build, or for many small ones."""
    return {"sweep_s": 0.2, "lease_s": 1.0, "budget_cpu_millis": 4000, "budget_memory_bytes": 3 * GIB}


async def test_what_does_not_fit_waits_and_says_what_for_and_until_when(rig):
    rig.builds.automatic = False
    first = await rig.request(new_id())
    await rig.until(first, "BUILDING")
    second = await rig.request(new_id())
    await rig.until(second, "QUEUED")
    entries = await queue(rig)
    assert [(entry.deployment_id, entry.position) for entry in entries] == [(first, 0), (second, 1)]
    assert entries[1].waits_for.startswith("1.1 GB held by shop/production, about ")
    assert entries[1].HasField("estimated_start")
    await rig.builds.succeed(first)
    await rig.until(second, "BUILDING")


async def test_another_teams_names_are_not_told(rig):
    rig.builds.automatic = False
    team = new_id()
    await rig.until(await rig.request(new_id()), "BUILDING")
    mine = await rig.request(new_id(), team=team)
    await rig.until(mine, "QUEUED")
    (entry,) = await queue(rig, team)
    assert entry.deployment_id == mine
    assert "held by another team" in entry.waits_for


async def test_a_project_reserves_what_its_builds_used_and_no_longer_the_default(rig):
    rig.builds.usage = types_pb2.Usage(peak_memory_bytes=400 * MIB, cpu_s=6, wall_s=10)
    project = new_id()
    await rig.until(await rig.request(project), "PRODUCTION")
    rig.builds.automatic = False
    second = await rig.request(project)
    await rig.until(second, "BUILDING")
    (entry,) = await queue(rig)
    assert (entry.needs.cpu_millis, entry.needs.memory_bytes) == (750, 500 * MIB)
    await rig.eventually(lambda: (second, 1) in rig.builds.started)
    assert rig.builds.started[second, 1].limits.memory_bytes == 500 * MIB
    assert await reserved(rig) == (100 + 750, (256 + 500) * MIB)


async def test_out_of_memory_is_tried_once_more_with_more_and_the_log_is_told(rig):
    rig.builds.automatic = False
    first = await rig.request(new_id())
    await rig.eventually(lambda: (first, 1) in rig.builds.started)
    await rig.builds.fail(first, OUT_OF_MEMORY, peak_memory_bytes=2100 * MIB)
    await rig.eventually(lambda: (first, 2) in rig.builds.started)
    words = "install was killed at 2.05 GiB; tried again with 3 GiB"
    again = rig.builds.started[first, 2]
    assert (again.limits.memory_bytes, again.notice) == (3 * GIB, words)
    assert (await rig.until(first, "BUILDING")).reason == words
    # The first attempt's end, told once more, is nobody's business by now.
    await rig.builds.fail(first, OUT_OF_MEMORY)
    await rig.builds.fail(first, OUT_OF_MEMORY, 2, peak_memory_bytes=3100 * MIB)
    failed = await rig.until(first, "FAILED")
    assert failed.reason.startswith(
        "install was killed at 2.05 GiB; tried again with 3 GiB, where install was killed at 3.03 GiB"
    )
    assert await reserved(rig) == (0, 0)


async def test_a_build_that_succeeds_the_second_time_keeps_the_words_in_its_record(rig):
    rig.builds.automatic = False
    first = await rig.request(new_id())
    await rig.eventually(lambda: (first, 1) in rig.builds.started)
    await rig.builds.fail(first, OUT_OF_MEMORY, peak_memory_bytes=2100 * MIB)
    await rig.eventually(lambda: (first, 2) in rig.builds.started)
    await rig.builds.succeed(first, 2)
    deployment = await rig.until(first, "PRODUCTION")
    assert "tried again with 3 GiB" in deployment.transitions[1].reason


async def test_cancelled_while_it_waits_for_a_larger_slot_it_ends_and_others_go_on(rig):
    rig.builds.automatic = False
    first = await rig.request(new_id())
    await rig.eventually(lambda: (first, 1) in rig.builds.started)
    # Small enough beside the first, and in the way of twice the memory.
    run = types_pb2.Configuration(run=types_pb2.RunSettings(memory_bytes=64 * MIB))
    second = await rig.request(new_id(), configuration=run)
    await rig.builds.fail(first, OUT_OF_MEMORY, peak_memory_bytes=2100 * MIB)
    await rig.eventually(lambda: (second, 1) in rig.builds.started or (first, 2) in rig.builds.started)
    await rig.stub.CancelDeployment(orchestrator_pb2.CancelDeploymentRequest(deployment_id=first))
    await rig.until(first, "INACTIVE")
    await rig.eventually(lambda: (second, 1) in rig.builds.started)


async def test_an_app_that_no_machine_can_hold_fails_at_once_with_the_remedy(rig):
    settings = types_pb2.Configuration(run=types_pb2.RunSettings(replicas=10, memory_bytes=GIB))
    failed = await rig.until(await rig.request(new_id(), configuration=settings), "FAILED")
    assert "run.replicas" in failed.reason


async def test_scaling_reserves_is_refused_without_room_and_gives_back(rig):
    first = await rig.request(new_id())
    await rig.until(first, "PRODUCTION")

    async def scale(replicas: int) -> None:
        await rig.stub.ScaleDeployment(orchestrator_pb2.ScaleDeploymentRequest(deployment_id=first, replicas=replicas))

    await scale(8)
    await rig.eventually(lambda: rig.workloads.scaled.get(first) == 8)
    assert await reserved(rig) == (800, 2 * GIB)
    with pytest.raises(PreconditionFailed, match="no room for 20 instances"):
        await scale(20)
    assert await reserved(rig) == (800, 2 * GIB)
    await scale(1)
    await rig.eventually(lambda: rig.workloads.scaled.get(first) == 1)
    assert await reserved(rig) == (100, 256 * MIB)


async def test_a_paused_app_reserves_nothing_and_takes_its_place_again_if_there_is_room(rig):
    first = await rig.request(new_id())
    await rig.until(first, "PRODUCTION")
    held = await reserved(rig)

    async def pause(deployment_id: str, *, paused: bool) -> None:
        await rig.stub.PauseDeployment(orchestrator_pb2.PauseDeploymentRequest(deployment_id=deployment_id, paused=paused))

    await pause(first, paused=True)
    await rig.eventually(lambda: rig.workloads.paused.get(first) is True)
    await rig.eventually(lambda: rig.edge.route(first).proxy.paused)
    assert await reserved(rig) == (0, 0)
    # Twice is once; what is scaled meanwhile still rests.
    await pause(first, paused=True)
    await rig.stub.ScaleDeployment(orchestrator_pb2.ScaleDeploymentRequest(deployment_id=first, replicas=2))
    assert await reserved(rig) == (0, 0)
    await pause(first, paused=False)
    await rig.eventually(lambda: rig.workloads.paused.get(first) is False)
    assert await reserved(rig) == (2 * held[0], 2 * held[1])
    # Until an instance is ready its address says what it said.
    assert rig.edge.route(first).proxy.paused
    await rig.workloads.ready(first, revision=2)
    await rig.eventually(lambda: not rig.edge.route(first).proxy.paused)
    assert [one.port for one in rig.edge.route(first).proxy.endpoints] == [4002]


async def test_without_room_a_paused_app_stays_paused(rig):
    first = await rig.request(new_id())
    await rig.until(first, "PRODUCTION")
    await rig.stub.PauseDeployment(orchestrator_pb2.PauseDeploymentRequest(deployment_id=first, paused=True))
    settings = types_pb2.Configuration(run=types_pb2.RunSettings(replicas=8, memory_bytes=256 * MIB))
    second = await rig.request(new_id(), configuration=settings)
    await rig.until(second, "PRODUCTION")
    await rig.stub.ScaleDeployment(orchestrator_pb2.ScaleDeploymentRequest(deployment_id=first, replicas=30))
    with pytest.raises(PreconditionFailed, match="no room for 30 instances"):
        await rig.stub.PauseDeployment(orchestrator_pb2.PauseDeploymentRequest(deployment_id=first, paused=False))
    assert (await rig.find(first)).paused


async def test_static_releases_reserve_nothing_and_cannot_be_scaled(rig):
    rig.builds.static = True
    first = await rig.request(new_id())
    await rig.until(first, "PRODUCTION")
    assert await reserved(rig) == (0, 0)
    answer = await rig.stub.ScaleDeployment(orchestrator_pb2.ScaleDeploymentRequest(deployment_id=first, replicas=2))
    assert not answer.scaled


async def test_a_rollback_goes_before_builds_that_wait(rig):
    project = new_id()
    old = await rig.request(project)
    await rig.until(old, "PRODUCTION")
    await rig.until(await rig.request(project), "PRODUCTION")
    rig.builds.automatic = False
    building = await rig.request(new_id())
    await rig.until(building, "BUILDING")
    waiting = await rig.request(new_id())
    await rig.until(waiting, "QUEUED")
    back = new_id()
    await rig.stub.CreateDeployment(
        orchestrator_pb2.CreateDeploymentRequest(from_deployment_id=old, trigger=types_pb2.TRIGGER_ROLLBACK, deployment_id=back)
    )
    await rig.until(back, "PRODUCTION")
    assert await rig.state(waiting) == "QUEUED"


async def test_a_project_deleted_while_it_builds_and_waits_frees_its_slot_and_the_queue_moves_on(rig):
    rig.builds.automatic = False
    project = new_id()
    building = await rig.request(project)
    await rig.until(building, "BUILDING")
    queued = await rig.request(project, environment="staging")
    other = await rig.request(new_id())
    await rig.until(other, "QUEUED")
    deleted = events_pb2.ProjectDeleted(project_id=project, team_id="t", deleted_by="ada")
    await rig.streams.publish(DEPLOYMENT_QUEUE, [deleted], tenant_id="t")
    for gone in (building, queued):
        assert (await rig.until(gone, "INACTIVE")).reason == "the project was deleted"
    await rig.until(other, "BUILDING")
    await rig.eventually(lambda: (building, 1) in rig.builds.cancelled)


@pytest.mark.parametrize("state", ["QUEUED", "BUILDING", "PROVISIONING"])
async def test_a_cancel_in_every_state_frees_what_it_holds_and_the_queue_moves_on(rig, state):
    rig.builds.automatic = state == "PROVISIONING"
    rig.workloads.automatic = False
    if state == "QUEUED":
        await rig.until(await rig.request(new_id()), "BUILDING")
    first = await rig.request(new_id())
    await rig.until(first, state)
    before = await reserved(rig)
    await rig.stub.CancelDeployment(orchestrator_pb2.CancelDeploymentRequest(deployment_id=first))
    await rig.until(first, "INACTIVE")
    assert await reserved(rig) == (before if state == "QUEUED" else (0, 0))
    if state != "QUEUED":
        rig.builds.automatic = rig.workloads.automatic = True
        await rig.until(await rig.request(new_id()), "PRODUCTION")


async def test_a_projects_own_deadlines_count(rig):
    rig.builds.automatic = False
    await rig.until(await rig.request(new_id()), "BUILDING")
    own = types_pb2.Configuration(build=types_pb2.BuildSettings(queue_timeout_s=1, timeout_s=77))
    hasty = await rig.request(new_id(), configuration=own)
    assert (await rig.until(hasty, "FAILED")).reason == "no build slot got free within 1 s"


async def test_a_projects_own_build_timeout_reaches_the_builder(rig):
    own = types_pb2.Configuration(build=types_pb2.BuildSettings(timeout_s=77))
    first = await rig.request(new_id(), configuration=own)
    await rig.until(first, "PRODUCTION")
    assert rig.builds.started[first, 1].timeout_s == 77
