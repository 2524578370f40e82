"""What runs out or does not answer: a connection pool, a Git host. The others go on, and the answer says when to come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from neighbours.build import Yard, build_yard, marked, plan_of
from neighbours.gateway import a_gateway
from neighbours.git_server import git_serving
from neighbours.project import settings_for

from shipoff.common.ids import new_id
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.project.main import running as project_running


async def test_an_exhausted_pool_is_503_with_a_time_to_wait(shipoff_home, redis_url, database_url_for, tmp_path, eventually):
    """Row 17: every connection of project's waits for a lock; who comes then is told, and afterwards all is as before."""
    url = await database_url_for("project")
    folder = shipoff_home / new_id()[-8:]
    folder.mkdir()
    settings = settings_for(url, redis_url, shipoff_home, tmp_path / "objects")
    settings = settings.model_copy(update={"listen": f"unix:{folder}/project.sock", "pool_size": 2})
    async with (
        a_gateway(folder, without=("project",), user_burst=1000) as rig,
        project_running(settings),
        # A connection without the time-outs that the services' have.
        asyncpg.create_pool(url.replace("+asyncpg", ""), min_size=1, max_size=1) as pool,
        pool.acquire() as holder,
    ):

        async def listed() -> tuple[int, str | None]:
            answer = await rig.call("GET", "/v1/projects", token=rig.owner)
            return answer.status_code, answer.headers.get("retry-after")

        assert (await listed())[0] == 200
        async with holder.transaction():
            await holder.execute("LOCK TABLE projects IN ACCESS EXCLUSIVE MODE")
            asking = [asyncio.create_task(listed()) for _ in range(8)]
            await eventually(lambda: sum(one.done() for one in asking) >= 6, timeout_s=20)
            refused = [one.result() for one in asking if one.done()]
        assert {status for status, _ in refused} == {503}
        assert all(after is not None and 1 <= int(after) <= 10 for _, after in refused)
        # Who waited for the lock then is answered, or told the same as the others.
        assert {status for status, _ in await asyncio.gather(*asking)} <= {200, 503}
        assert [await listed() for _ in range(5)] == [(200, None)] * 5


@pytest.fixture
async def yard(backing, redis_url, database_url_for, tmp_path) -> AsyncIterator[tuple[Yard, object]]:
    url = await database_url_for("build")
    with git_serving(tmp_path) as server:
        async with build_yard(
            backing.home,
            database_url=url,
            redis_url=redis_url,
            objects_url=backing.objects_url,
            allow_hosts=server.host,
        ) as made:
            yield made, server


async def test_a_git_host_that_hangs_holds_one_build_until_its_deadline_and_no_other(yard, eventually):
    """Row 27."""
    site, server = yard
    server.push("app", {"app.json": plan_of("true")})
    server.hold.set()
    source = types_pb2.Source(git=types_pb2.GitSource(url=server.url("app")))
    hanging = await site.start(source, timeout_s=6)
    await eventually(lambda: server.requests)
    others = [await site.start({"app.json": plan_of("true")}) for _ in range(2)]
    for other in others:
        assert isinstance(await site.result(other), events_pb2.BuildSucceeded)
    assert await site.results(hanging) == []
    result = await site.result(hanging)
    assert isinstance(result, events_pb2.BuildFailed)
    assert result.failure == events_pb2.BUILD_FAILURE_TIMEOUT
    server.hold.clear()
    await eventually(lambda: not marked(hanging) and not site.builders() and not site.leftovers())
