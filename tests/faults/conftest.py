"""Real orchestrators between their neighbours, to be killed, paused and cut off."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from neighbours.orchestrator import Rig, orchestrators
from neighbours.zygote import Zygote


@pytest.fixture
async def world(shipoff_home, redis_url, database_url_for, eventually) -> AsyncIterator[tuple[Rig, Zygote]]:
    """On Valkey."""
    url = await database_url_for("orchestrator")
    async with orchestrators(redis_url=redis_url, database_url=url, eventually=eventually) as made:
        yield made


@pytest.fixture
async def either_world(shipoff_home, redis_server, database_url_for, eventually) -> AsyncIterator[tuple[Rig, Zygote]]:
    """Once on Valkey, once on Redis 7."""
    url = await database_url_for("orchestrator")
    async with orchestrators(redis_url=redis_server.url, database_url=url, eventually=eventually) as made:
        yield made
