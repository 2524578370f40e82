"""Project on a real database, Valkey and object store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from neighbours.project import Rig, connected, settings_for

from shipoff.project.main import running
from shipoff.project.settings import ProjectSettings


@pytest.fixture
async def project_settings(
    database_url_for: Callable[[str], Awaitable[str]], redis_url: str, shipoff_home: Path, tmp_path: Path
) -> ProjectSettings:
    return settings_for(await database_url_for("project"), redis_url, shipoff_home, tmp_path / "objects")


@pytest.fixture
async def project(project_settings: ProjectSettings) -> AsyncIterator[Rig]:
    async with running(project_settings), connected(project_settings) as rig:
        yield rig
