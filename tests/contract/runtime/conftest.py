"""The cluster that the driver's contract is tested on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from neighbours import kube_runtime
from neighbours.kube_api import KubeApi
from neighbours.kube_nodes import Nodes
from neighbours.kube_runtime import Ground, Runtime


@pytest.fixture
async def ground() -> AsyncIterator[Ground]:
    """The small API, or the real cluster."""
    async with kube_runtime.ground() as made:
        yield made


@pytest.fixture
async def runtime(ground: Ground) -> AsyncIterator[Runtime]:
    """A running one."""
    async with ground.runtime() as made:
        yield made


@pytest.fixture
def fake(ground: Ground) -> KubeApi:
    """The small API, where a test has to break it or to count."""
    if ground.fake is None:
        pytest.skip("a real cluster is not broken for a test")
    return ground.fake


@pytest.fixture
def nodes(ground: Ground) -> Nodes:
    """What is behind the small API."""
    if ground.nodes is None:
        pytest.skip("a real cluster is not broken for a test")
    return ground.nodes
