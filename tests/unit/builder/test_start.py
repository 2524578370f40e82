"""A builder is started for every build: what it loads is waited for every time."""

from __future__ import annotations

import subprocess
import sys

# Each takes as long to load as all that a builder needs.
_HEAVY = ("structlog", "rich", "protovalidate", "sqlalchemy", "redis", "pydantic", "fastapi")
_ASK = "import sys, shipoff.builder.__main__; print(*sys.modules)"


def test_a_builder_loads_nothing_heavy_that_it_does_not_need():
    answer = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in answer.stdout.split()}
    assert "psutil" in loaded
    assert not loaded & set(_HEAVY)
