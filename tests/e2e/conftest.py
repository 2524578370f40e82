"""Platforms for the end-to-end tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e.harness import EXAMPLES, Platform, new_platform


def _mode(name: str) -> object:
    # One test process takes all tests of a mode, so that each platform is started once.
    return pytest.param(name, marks=pytest.mark.xdist_group(name))


@pytest.fixture(scope="session", params=[_mode("one process"), _mode("ten processes")])
def platform(request: pytest.FixtureRequest) -> Iterator[Platform]:
    """A started platform, once with all services in one process and once with each in its own."""
    made = new_platform(separate=request.param == "ten processes")
    try:
        made.start()
        yield made
    finally:
        made.remove()


@pytest.fixture
def own_platform() -> Iterator[Platform]:
    """A started platform for a test that breaks it."""
    made = new_platform()
    try:
        made.start()
        yield made
    finally:
        made.remove()


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str], Path]:
    """`copied("static-site")`: an example in a folder that a test may change."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(EXAMPLES / name, tmp_path / name))

    return copy
