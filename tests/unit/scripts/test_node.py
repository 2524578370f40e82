"""Tests of Node apps where there is no Node."""

from __future__ import annotations

import pytest
from neighbours import node


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))


def test_without_node_they_are_skipped(nowhere, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="lacks node and npm"):
        node.require()


def test_without_node_they_fail_in_the_ci(nowhere, monkeypatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="install Node"):
        node.require()
