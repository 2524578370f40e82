"""The whole platform on a real cluster: `make test-cluster` runs these, `make test` leaves them out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e.harness import EXAMPLES, Platform
from neighbours import kube_platform
from neighbours.kube_platform import ClusterPlatform, cluster_platform

if not os.environ.get("SHIPOFF_TEST_IMAGE"):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def cluster() -> Iterator[ClusterPlatform]:
    """A platform whose apps run on the cluster."""
    if why := kube_platform.missing():
        pytest.skip(why)
    with cluster_platform() as made:
        yield made


@pytest.fixture
def platform(cluster: ClusterPlatform) -> Platform:
    """The same, as somebody who uses it sees it."""
    return cluster.platform


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str], Path]:
    """`copied("static-site")`: an example in a folder that a test may change."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(EXAMPLES / name, tmp_path / name))

    return copy
