"""The build service in this process, with real builders."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from neighbours.build import Yard, build_yard
from neighbours.git_server import GitServer, git_serving


@pytest.fixture
def git_server(tmp_path) -> Iterator[GitServer]:
    """Repositories over smart HTTP."""
    with git_serving(tmp_path) as server:
        yield server


@pytest.fixture
def build_settings() -> dict[str, object]:
    """What a test module wants different from the defaults."""
    return {}


@pytest.fixture
async def yard(backing, redis_url, database_url_for, git_server, build_settings) -> AsyncIterator[Yard]:
    """A running build service; its detector takes the plan from the source's app.json."""
    url = await database_url_for("build")
    options = {"allow_hosts": git_server.host, **build_settings}
    async with build_yard(
        backing.home, database_url=url, redis_url=redis_url, objects_url=backing.objects_url, **options
    ) as made:
        yield made
