"""What scripts/engine.sh does before it brings anything: with the folder that it is given, and where it can do nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "engine.sh"


def _run(tools: Path, path: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": path, "SHIPOFF_TEST_TOOLS": str(tools)}
    bash = shutil.which("bash") or "bash"
    return subprocess.run([bash, str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_lies_beside_the_tools_stays(tmp_path: Path) -> None:
    programs, tools = tmp_path / "programs", tmp_path / "tools"
    (tools / "shipoff-tests").mkdir(parents=True)
    (tools / "shipoff-tests" / "stale").touch()
    (tools / "mine").touch()
    programs.mkdir()
    (programs / "apt-get").write_text("#!/bin/sh\nexit 100\n")
    (programs / "apt-get").chmod(0o755)
    assert _run(tools, f"{programs}:{os.environ['PATH']}").returncode == 100
    assert (tools / "mine").exists()
    assert not (tools / "shipoff-tests" / "stale").exists()


def test_where_nothing_can_be_installed_it_fails_and_says_what_it_needs(tmp_path: Path) -> None:
    for program in ("sha256sum", "cut"):
        (tmp_path / program).symlink_to(shutil.which(program) or program)
    ended = _run(tmp_path / "tools", str(tmp_path))
    assert ended.returncode == 1
    assert "run this as root on Debian" in ended.stderr
    assert "skipped" not in ended.stderr
