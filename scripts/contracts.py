"""Checks proto/: generated code current, lint, and no breaking change against the main branch. Called by `make check`."""

from __future__ import annotations

import subprocess
import sys
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


def git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """What git prints."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)


def contracts_of_main(into: Path) -> bool:
    """Writes main's proto/ into a folder; False where there is no main, or main has none yet."""
    for name in MAIN:
        files = git("ls-tree", "-r", "--name-only", name, "--", "proto").stdout.decode().splitlines()
        for file in files:
            target = into / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(git("show", f"{name}:{file}").stdout)
        if files:
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
