"""What the platform says about its fields is told in the options of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from shipoff.cli import hints


@pytest.mark.parametrize(
    ("text", "field", "told"),
    [
        ("source.git.url points into a private network", "source.git.url", "--git points into a private network"),
        ("environment 'A' is not a DNS label", "environment", "--environment 'A' is not a DNS label"),
        ("the environment is full", "environment", "the environment is full"),
        ("scale down, or lower run.memory_bytes or run.cpu_millis", "", "scale down, or lower --memory or --cpu"),
        ("build.root_directory has to be a folder", "build.root_directory", "build.root_directory has to be a folder"),
    ],
)
def test_fields_become_options(text: str, field: str, told: str) -> None:
    assert hints.in_options(text, field) == told


def test_a_command_names_what_this_folder_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shipoff.toml").write_text('project = "shop"\n')
    monkeypatch.chdir(tmp_path)
    assert hints.command("status", "shop") == "shipoff status"
    assert hints.command("status", "blog", "staging") == "shipoff status -p blog -e staging"
    (tmp_path / "shipoff.toml").write_text("broken")
    assert hints.command("status", "shop") == "shipoff status -p shop"
