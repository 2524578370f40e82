"""A gateway on a Unix socket, over small servicers that play the other services."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from neighbours.gateway import Rig, a_gateway

from shipoff.common.ids import new_id


@pytest.fixture
def sockets(shipoff_home: Path) -> Path:
    """A short folder for sockets, of this test alone."""
    folder = shipoff_home / new_id()[-8:]
    folder.mkdir()
    return folder


@pytest.fixture
async def rig(sockets: Path) -> AsyncIterator[Rig]:
    async with a_gateway(sockets) as made:
        yield made


@pytest.fixture(scope="module")
async def _shared(shipoff_home: Path) -> AsyncIterator[Rig]:
    folder = shipoff_home / new_id()[-8:]
    folder.mkdir()
    async with a_gateway(folder, anonymous_burst=1000) as made:
        yield made


@pytest.fixture
def shared_rig(_shared: Rig) -> Rig:
    """One gateway for many tests that only ask: what it was asked before is forgotten."""
    _shared.world.calls.clear()
    return _shared


@pytest.fixture
def gateway_with(sockets: Path) -> Callable[..., Any]:
    """`async with gateway_with(user_burst=3) as rig:`"""

    def make(**settings: Any) -> Any:
        return a_gateway(sockets, **settings)

    return make
