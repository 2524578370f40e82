"""Checks proto/: generated code current, lint, and no breaking change against the main branch. Called by `make check`."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import proto

ROOT = proto.ROOT
BUF = proto.BIN / "buf"
# Where the last agreed contracts are, best first: a clone made for one commit may have only the latter.
MAIN = ("origin/main", "main")


def succeeded(argv: list[str]) -> bool:
    """Runs a check that prints its own findings."""
    return subprocess.run(argv, cwd=ROOT, check=False).returncode == 0


def contracts_of_main(into: Path) -> bool:
    """Unpacks main's proto/ into a folder; False where there is no main, or main has none yet."""
    for name in MAIN:
        archive = subprocess.run(["git", "archive", name, "--", "proto"], cwd=ROOT, capture_output=True, check=False)
        if archive.returncode == 0:
            with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as content:
                content.extractall(into, filter="data")
            return True
    return False


def main() -> None:
    """Exits with 1 after everything was checked and something was found."""
    generated = succeeded([sys.executable, "scripts/proto.py", "--check"])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        proto.write_image(ROOT / "proto", folder / "now.binpb")
        kept = [succeeded([str(BUF), "lint", str(folder / "now.binpb")])]
        if contracts_of_main(folder):
            proto.write_image(folder / "proto", folder / "main.binpb")
            kept.append(succeeded([str(BUF), "breaking", str(folder / "now.binpb"), "--against", str(folder / "main.binpb")]))
        else:
            print("contracts: no main branch here, so breaking changes were not looked for")
    if not (generated and all(kept)):
        sys.exit(1)


if __name__ == "__main__":
    main()
