"""Schedules of a release on real processes: run at their time, in its enclosure, their output in the app's log."""

from __future__ import annotations

import sqlalchemy as sa
from neighbours.runtime import PYTHON, Ground, Runtime

from shipoff.common.postgres import Database
from shipoff.common.rpc import channel
from shipoff.contracts.runtime.v1 import commands_pb2, commands_pb2_grpc, runtime_pb2
from shipoff.contracts.types.v1 import types_pb2


async def statuses(ground: Ground, deployment_id: str) -> dict[str, commands_pb2.ScheduleStatus]:
    async with channel(ground.settings.listen) as ch:
        request = commands_pb2.ListSchedulesRequest(deployment_id=deployment_id)
        answer = await commands_pb2_grpc.CommandServiceStub(ch).ListSchedules(request)
    return {one.schedule.name: one for one in answer.schedules}


async def let_time_pass(ground: Ground) -> None:
    """So that the next look finds a time that has come."""
    async with Database.open(ground.settings.database_url) as database, database.transaction() as tx:
        await tx.execute(sa.text("UPDATE schedules SET seen_at = seen_at - 90000"), {})


async def seen(ground: Ground) -> int:
    async with Database.open(ground.settings.database_url) as database:
        return len(await database.all(sa.text("SELECT name FROM schedules")))


async def test_schedules_run_as_the_app_does_and_write_to_its_log(ground: Ground, eventually) -> None:
    script = "import os, sys; print('backed up', os.environ['TARGET'], os.listdir('.')); print('oh', file=sys.stderr)"
    run = types_pb2.RunSettings(
        schedules=[
            types_pb2.Schedule(name="backup", cron="0 3 * * *", argv=[PYTHON, "-c", script]),
            types_pb2.Schedule(name="broken", cron="30 4 * * *", argv=[PYTHON, "-c", "exit(3)"]),
        ]
    )
    async with ground.runtime() as runtime:
        deployment_id = await runtime.apply("serve", run=run, variables={"TARGET": "everything"})
        await eventually(lambda: is_ready(runtime, deployment_id), timeout_s=30)

        async def known() -> bool:
            return await seen(ground) == 2

        await eventually(known, timeout_s=30)
        found = await statuses(ground, deployment_id)
        assert found["backup"].next_run.seconds % 86_400 == 3 * 3600
        assert not found["backup"].HasField("last_run")
        await let_time_pass(ground)

        async def ended() -> bool:
            return all(one.outcome not in ("", "running") for one in (await statuses(ground, deployment_id)).values())

        await eventually(ended, timeout_s=30)
        found = await statuses(ground, deployment_id)
        assert (found["backup"].outcome, found["broken"].outcome) == ("succeeded", "failed: exit code 3")
        assert found["backup"].last_run.seconds > 0

        async def written() -> bool:
            lines = {(channel, text) for _, _, channel, text in await runtime.lines(deployment_id)}
            return {("stdout", "backed up everything ['app.py']"), ("stderr", "oh")} <= lines

        await eventually(written, timeout_s=30)
        # What rests runs nothing.
        await runtime.pause(deployment_id)
        assert not (await statuses(ground, deployment_id))["backup"].HasField("next_run")


async def test_a_schedule_that_runs_is_ended_with_the_platform_and_not_run_twice(ground: Ground, eventually) -> None:
    run = types_pb2.RunSettings(schedules=[types_pb2.Schedule(name="long", cron="0 3 * * *", argv=["sleep", "600"])])
    async with ground.runtime() as runtime:
        deployment_id = await runtime.apply("serve", run=run)
        await eventually(lambda: is_ready(runtime, deployment_id), timeout_s=30)

        async def known() -> bool:
            return await seen(ground) == 1

        await eventually(known, timeout_s=30)
        await let_time_pass(ground)

        async def begun() -> bool:
            return (await statuses(ground, deployment_id))["long"].outcome == "running"

        await eventually(begun, timeout_s=30)
    assert not runtime.pids(deployment_id)
    async with ground.runtime() as runtime:
        await eventually(lambda: is_ready(runtime, deployment_id), timeout_s=30)
        assert (await statuses(ground, deployment_id))["long"].outcome == "failed: the platform was stopped"
        # The app comes back, and nothing else.
        await eventually(lambda: len(runtime.pids(deployment_id)) == 1, timeout_s=30)


async def is_ready(runtime: Runtime, deployment_id: str) -> bool:
    return (await runtime.get(deployment_id)).phase == runtime_pb2.WORKLOAD_PHASE_READY
