"""The runtime in this process, on real servers, running real processes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from neighbours.runtime import Ground, Runtime, fresh_ground


@pytest.fixture
async def ground(backing, redis_url, database_url_for) -> AsyncIterator[Ground]:
    """Stores and a folder for one test, in which runtimes can be started one after the other."""
    url = await database_url_for("runtime")
    async with fresh_ground(backing.home, database_url=url, redis_url=redis_url, objects_url=backing.objects_url) as made:
        yield made


@pytest.fixture
async def runtime(ground: Ground) -> AsyncIterator[Runtime]:
    """A running one."""
    async with ground.runtime() as client:
        yield client
