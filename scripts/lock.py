"""Writes requirements.lock and requirements-dev.lock: the newest versions that fit, with hashes. Called by `make lock`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = Path(sys.executable).parent / "uv"
# Without the index's address: the files are the same whichever mirror they came from.
COMMON = [
    "--universal",
    "--python-version",
    "3.11",
    "--upgrade",
    "--generate-hashes",
    "--no-header",
    "--no-annotate",
    "--quiet",
]


def main() -> None:
    """What runs the platform first; development then adds to exactly that."""
    runtime = [str(UV), "pip", "compile", "pyproject.toml", *COMMON, "--no-emit-index-url", "-o", "requirements.lock"]
    subprocess.run(runtime, cwd=ROOT, check=True)
    dev = [str(UV), "pip", "compile", "pyproject.toml", "--group", "dev", "-c", "requirements.lock", *COMMON]
    subprocess.run([*dev, "--no-emit-index-url", "-o", "requirements-dev.lock"], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
