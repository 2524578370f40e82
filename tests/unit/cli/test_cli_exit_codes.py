"""Exit codes are a promise to scripts: the enumeration, the guide and the help tell the same."""

from __future__ import annotations

import re
from pathlib import Path

from typer.testing import CliRunner

from shipoff.cli.app import app
from shipoff.cli.errors import MEANINGS, ExitCode

_GUIDE = Path(__file__).parents[3] / "docs" / "guide" / "cli.md"


def test_every_code_has_a_meaning() -> None:
    assert set(MEANINGS) == set(ExitCode)


def test_the_guide_has_the_same_table() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", _GUIDE.read_text(), re.MULTILINE)
    assert rows == [(str(code.value), meaning) for code, meaning in MEANINGS.items()]


def test_the_help_tells_the_same() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "300"}).stdout
    words = " ".join(shown.split())
    for code, meaning in MEANINGS.items():
        assert f"{code.value}: {meaning}." in words
