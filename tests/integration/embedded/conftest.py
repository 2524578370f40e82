"""A data folder and a free port for each test of the embedded platform."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from neighbours.ports import free_port

from shipoff.embedded.layout import Layout, backing_account, prepare


@pytest.fixture(name="free_port")
def _free_port() -> int:
    """A TCP port that nobody listens on, on any address."""
    return free_port("0.0.0.0")


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, free_port: int) -> Iterator[Path]:
    """An empty data folder with a short path; the settings point at it."""
    folder = Path(tempfile.mkdtemp(prefix="se-", dir="/tmp")).resolve()
    monkeypatch.setenv("SHIPOFF_HOME", str(folder))
    monkeypatch.setenv("SHIPOFF_HTTP_PORT", str(free_port))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def layout(home: Path) -> Layout:
    """The prepared data folder."""
    layout = Layout(home)
    prepare(layout, backing_account())
    return layout
