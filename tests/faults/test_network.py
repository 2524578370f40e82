"""The network between an orchestrator and its servers is slow, silent or broken, through the fault proxy. Nothing is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from neighbours.faultproxy import FaultProxy
from neighbours.orchestrator import CLEAN_RUN, Rig, check_histories, names
from neighbours.zygote import Zygote

from shipoff.common.ids import new_id


@dataclass
class Far:
    """An orchestrator's way to its servers: it sees them through these."""

    rig: Rig
    zygote: Zygote
    redis: FaultProxy
    postgres: FaultProxy
    home: Path
    environment: dict[str, str]

    async def start(self) -> None:
        """The one behind the proxies; it is not the one that is asked."""
        listen = f"unix:{self.home}/run/grpc/orchestrator-far.sock"
        await self.zygote.start(**self.environment, SHIPOFF_ORCHESTRATOR_LISTEN=listen)

    async def served(self, ids: list[str]) -> None:
        for deployment_id in ids:
            assert names(await self.rig.until(deployment_id, "PRODUCTION")) == CLEAN_RUN


def socket_of_postgres(url: str) -> str:
    """The socket in a URL as postgresql+asyncpg://role:password@/name?host=folder."""
    return f"{parse_qs(urlsplit(url).query)['host'][0]}/.s.PGSQL.5432"


@pytest.fixture
async def far(world, redis_url, backing, shipoff_home) -> AsyncIterator[Far]:
    rig, zygote = world
    folder = shipoff_home / new_id()[-8:]
    folder.mkdir()
    database_url = backing.database_url("orchestrator")
    real_postgres = socket_of_postgres(database_url)
    real_redis = unquote(redis_url.rpartition("@")[2])
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(FaultProxy.running(real_postgres, listen=f"{folder}/.s.PGSQL.5432"))
        redis = await stack.enter_async_context(FaultProxy.running(real_redis, listen=f"{folder}/redis.sock"))
        environment = {
            "SHIPOFF_ORCHESTRATOR_DATABASE_URL": database_url.replace(str(Path(real_postgres).parent), str(folder)),
            "SHIPOFF_REDIS_URL": f"{redis_url.rpartition('@')[0]}@{folder}/redis.sock",
        }
        yield Far(rig, zygote, redis, postgres, shipoff_home, environment)


async def several(rig: Rig, count: int = 6) -> list[str]:
    return [await rig.request(new_id()) for _ in range(count)]


async def test_connections_that_are_cut_again_and_again_lose_nothing(far: Far):
    await far.start()
    await far.zygote.start()
    ids = []
    for _ in range(5):
        ids += await several(far.rig, 2)
        far.redis.reset()
        far.postgres.reset()
        await far.rig.eventually(lambda: far.postgres.connections > 0)
    await far.served(ids)
    await check_histories(far.rig)


async def test_a_network_that_says_nothing_holds_up_nobody_else_and_changes_nothing_when_it_heals(far: Far):
    """Row 13 as the network makes it: its lease passes while its words are on the way; they arrive after somebody else's."""
    await far.start()
    ids = await several(far.rig)
    await far.rig.eventually(lambda: len(far.rig.builds.started) >= 1)
    far.postgres.blackhole()
    far.redis.blackhole()
    await far.zygote.start()
    ids += await several(far.rig, 2)
    await far.served(ids)
    far.postgres.heal()
    far.redis.heal()
    last = await several(far.rig, 2)
    await far.served(last)
    await check_histories(far.rig)


async def test_a_slow_network_is_slow_and_no_more(far: Far):
    far.redis.delay_s = far.postgres.delay_s = 0.02
    far.redis.bytes_per_s = 200_000
    await far.start()
    ids = await several(far.rig, 3)
    await far.zygote.start()
    await far.served(ids)
    await check_histories(far.rig)


async def test_a_server_that_refuses_for_a_while_is_asked_again(far: Far):
    await far.start()
    far.redis.refusing = far.postgres.refusing = True
    far.redis.cut()
    far.postgres.cut()
    ids = await several(far.rig, 3)
    asked = far.redis.accepted + far.postgres.accepted
    await far.rig.eventually(lambda: far.redis.accepted + far.postgres.accepted >= asked + 3)
    far.redis.heal()
    far.postgres.heal()
    await far.zygote.start()
    await far.served(ids)
    await check_histories(far.rig)
