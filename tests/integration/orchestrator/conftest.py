"""The orchestrator as it runs, on real servers, between its neighbours."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from neighbours.orchestrator import Rig, surrounded

from shipoff.orchestrator.main import running
from shipoff.orchestrator.settings import OrchestratorSettings


@pytest.fixture
def orchestrator_settings() -> dict[str, object]:
    """Settings that a test may change before it starts the orchestrator."""
    return {"sweep_s": 0.2, "lease_s": 1.0}


@pytest.fixture
async def rig(shipoff_home: Path, redis_url, database_url_for, orchestrator_settings, eventually) -> AsyncIterator[Rig]:
    """A running orchestrator and its neighbours."""
    url = await database_url_for("orchestrator")
    async with AsyncExitStack() as stack:
        made = await surrounded(stack, redis_url=redis_url, database_url=url, eventually=eventually)
        settings = OrchestratorSettings(database_url=url, SHIPOFF_REDIS_URL=redis_url, **orchestrator_settings)
        await stack.enter_async_context(running(settings))
        yield made
