"""A verb starts fast: it loads what it needs and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_HEAVY = {"sqlalchemy", "grpc", "redis", "pydantic", "rich.progress", "uvloop", "fastapi", "google.protobuf"}


def _loaded(*arguments: str) -> set[str]:
    """The modules of a process that was asked this; no platform is there."""
    program = (
        "import sys\nfrom shipoff.__main__ import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print('\\n'.join(sys.modules), file=sys.__stderr__)"
    )
    environment = {**os.environ, "SHIPOFF_URL": "http://localhost:1", "SHIPOFF_TOKEN": "shp_x"}
    argv = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60, env=environment)
    return set(done.stderr.splitlines())


@pytest.mark.parametrize(
    "arguments", [("status",), ("scale", "2"), ("env", "unset", "A"), ("logs", "-n", "5")], ids=lambda words: words[0]
)
def test_a_verb_loads_neither_services_nor_drivers_nor_schemas(arguments: tuple[str, ...]) -> None:
    loaded = _loaded(*arguments, "-p", "app")
    services = {name.split(".")[1] for name in loaded if name.startswith("shipoff.")} - {
        "cli",
        "common",
        "embedded",
        "__main__",
    }
    assert (_HEAVY & loaded, services) == (set(), set())
    assert "httpx2" in loaded, "it got as far as asking the platform"


def test_help_needs_no_connection_either() -> None:
    assert {"httpx2", "websockets", "pathspec", "pydantic"} & _loaded("--help") == set()
