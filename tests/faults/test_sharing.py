"""Many orchestrators on one database: they share the work, hold it by leases on the database's clock, and do nothing twice."""

from __future__ import annotations

import asyncio
import signal

import sqlalchemy as sa
from neighbours.orchestrator import CLEAN_RUN, Rig, check_histories, names
from neighbours.zygote import Child, Zygote

from shipoff.common.ids import new_id
from shipoff.common.streams import RUNTIME_EVENTS

HOUR_S = 3600


def socket_of(home, number: int) -> str:
    """A gRPC address of its own: the first one answers the tests, none of the others is asked."""
    return f"unix:{home}/run/grpc/orchestrator-{number}.sock"


async def started(zygote: Zygote, home, count: int, **environment: str) -> list[Child]:
    """The first at the address that is asked."""
    first = await zygote.start(**environment)
    addresses = [socket_of(home, number) for number in range(1, count)]
    return [first, *[await zygote.start(SHIPOFF_ORCHESTRATOR_LISTEN=one, **environment) for one in addresses]]


async def all_served(rig: Rig, ids: list[str]) -> None:
    for deployment_id in ids:
        assert names(await rig.until(deployment_id, "PRODUCTION")) == CLEAN_RUN


async def test_ten_at_once_share_the_work_although_half_of_them_are_killed(world, shipoff_home):
    """Row 18."""
    rig, zygote = world
    children = await started(zygote, shipoff_home, 10)
    ids = [await rig.request(new_id()) for _ in range(20)]
    await rig.eventually(lambda: len(rig.builds.started) >= 5)
    for child in children[1::2]:
        await child.kill()
    ids += [await rig.request(new_id()) for _ in range(20)]
    await all_served(rig, ids)
    # No second attempt: whoever died had its instructions taken over, not its builds begun anew.
    assert {attempt for _, attempt in rig.builds.started} == {1}
    await check_histories(rig)


async def test_a_clock_that_jumps_an_hour_either_way_ends_no_lease_and_no_deadline(world, shipoff_home):
    """Row 19: one is an hour ahead, one an hour behind, in the middle of their work."""
    rig, zygote = world
    rig.builds.automatic = False
    ahead = await zygote.start(CLOCK_JUMPS_BY_S=str(HOUR_S))
    behind = await zygote.start(CLOCK_JUMPS_BY_S=str(-HOUR_S), SHIPOFF_ORCHESTRATOR_LISTEN=socket_of(shipoff_home, 2))
    ids = [await rig.request(new_id()) for _ in range(6)]
    await rig.eventually(lambda: len(rig.builds.started) >= 1)
    for child in (ahead, behind):
        child.send_signal(signal.SIGUSR2)
    rig.builds.automatic = True
    for deployment_id, attempt in list(rig.builds.started):
        await rig.builds.succeed(deployment_id, attempt)
    ids += [await rig.request(new_id()) for _ in range(6)]
    await all_served(rig, ids)
    assert {attempt for _, attempt in rig.builds.started} == {1}
    await check_histories(rig)
    written = await rig.database.all(sa.text("SELECT min(now() - time) AS least, max(now() - time) AS most FROM transitions"))
    assert written[0]["least"].total_seconds() >= 0
    assert written[0]["most"].total_seconds() < HOUR_S / 2, "times are the database's"


async def test_every_event_a_hundred_times_and_in_any_order_ends_in_the_same_history(world, shipoff_home):
    """Row 15, with three consumers at once: requests of one project shuffled, outcomes before their builds and after them."""
    rig, zygote = world
    await started(zygote, shipoff_home, 3)
    rig.builds.automatic = rig.workloads.automatic = False
    project, ids = new_id(), []
    for _ in range(4):
        ids.append(await rig.request(project, times=25))
    newest = ids[-1]
    await rig.eventually(lambda: (newest, 1) in rig.builds.started)
    # Of an attempt that is not there yet, and readiness of what was never applied.
    await rig.builds.succeed(newest, 2, times=10)
    await rig.workloads.ready(newest, 7)
    # It is passed over; taken up later, beside the build's end, it would be news of a workload.
    await rig.eventually(lambda: _handled(rig, RUNTIME_EVENTS))
    await asyncio.gather(*(rig.builds.succeed(one, times=100) for one in (ids[2], ids[0], ids[3], ids[1])))
    await rig.eventually(lambda: newest in rig.workloads.applied)
    for revision in (1, 3, 2, 3, 1) * 20:
        await rig.workloads.ready(newest, revision)
    assert names(await rig.until(newest, "PRODUCTION")) == CLEAN_RUN
    for older in ids[:-1]:
        await rig.until(older, "INACTIVE")
    await rig.eventually(lambda: rig.edge.routes[project, "production"].proxy.endpoints[0].port == 4003)
    assert rig.builds.calls[newest] == rig.workloads.applied.count(newest) == 1
    await check_histories(rig)


async def _handled(rig: Rig, stream: str) -> bool:
    """Whether the orchestrators have acknowledged everything on it."""
    (group,) = [one for one in await rig.streams.client.xinfo_groups(stream) if one["name"] == b"orchestrator"]
    last = (await rig.streams.client.xinfo_stream(stream))["last-generated-id"]
    return group["pending"] == 0 and group["last-delivered-id"] == last


async def test_a_build_that_hangs_holds_its_own_slot_and_no_other(world):
    """Row 27: what is slow to be fetched keeps nobody else waiting."""
    rig, zygote = world
    await zygote.start(
        SHIPOFF_ORCHESTRATOR_BUDGET_CPU_MILLIS="3000",
        SHIPOFF_ORCHESTRATOR_BUDGET_MEMORY_BYTES=str(8 << 30),
        SHIPOFF_ORCHESTRATOR_BUILD_TIMEOUT_S="7200",
    )
    rig.builds.automatic = False
    hanging = await rig.request(new_id())
    await rig.eventually(lambda: (hanging, 1) in rig.builds.started)
    rig.builds.automatic = True
    await all_served(rig, [await rig.request(new_id()) for _ in range(5)])
    assert await rig.state(hanging) == "BUILDING"
    await rig.builds.succeed(hanging)
    await all_served(rig, [hanging])
    await check_histories(rig)


async def test_a_drain_under_load_lets_the_next_one_finish_everything(world, shipoff_home):
    """Row 35: SIGTERM to both in the middle of twenty deployments, an upgraded pair follows; no deployment fails for it."""
    rig, zygote = world
    ids = []
    for round_ in range(2):
        children = await started(zygote, shipoff_home, 2)
        ids += [await rig.request(new_id()) for _ in range(10)]
        await rig.eventually(lambda least=1 + 10 * round_: len(rig.builds.started) >= least)
        for child in children:
            child.send_signal(signal.SIGTERM)
        # Drained, and not waited for in vain: it does not take until it is killed.
        await asyncio.wait_for(asyncio.gather(*(child.ended.wait() for child in children)), 20)
    await started(zygote, shipoff_home, 2)
    await all_served(rig, ids)
    await check_histories(rig)
