"""Checks proto/: generated code current, lint, and no breaking change against what was before. Called by `make check`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import proto

ROOT = proto.ROOT
BUF = proto.BIN / "buf"
# Main as the remote has it, and as it is here: whichever left this commit last.
MAIN = ("origin/main", "main")
RELEASES = "v[0-9]*"
# Until the first release a commit's message may say that it breaks a contract, and why: "Breaks-contract: <reason>".
EXCUSE = "Breaks-contract"


@dataclass(frozen=True)
class Base:
    """What the contracts are compared with. `note` says what it is; without a release a commit since may excuse a break."""

    commit: str
    note: str
    released: bool = False


def succeeded(argv: list[str]) -> bool:
    """Runs a check that prints its own findings."""
    return subprocess.run(argv, cwd=ROOT, check=False).returncode == 0


def git(root: Path, *arguments: str) -> bytes:
    """What git prints; nothing when it fails."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"})
    return done.stdout if done.returncode == 0 else b""


def line(root: Path, *arguments: str) -> str:
    """The same as text."""
    return git(root, *arguments).decode().strip()


def find_base(root: Path) -> Base | None:
    """The last release; without one where this branch left main; on main itself, and without a main, the commit before.

    In a shallow clone that has nothing but one commit, the one before is fetched. None: there is nothing to compare with.
    """
    head = line(root, "rev-parse", "HEAD")
    if not head:
        return None
    if release := line(root, "describe", "--tags", "--abbrev=0", "--match", RELEASES):
        return Base(release, f"the last release, {release}", released=True)
    left = [(name, line(root, "merge-base", "HEAD", name)) for name in MAIN]
    distances = [
        (int(line(root, "rev-list", "--count", f"{commit}..HEAD")), name, commit)
        for name, commit in left
        if commit and commit != head
    ]
    if distances:
        _, name, commit = min(distances)
        return Base(commit, f"where this branch left {name}, {commit[:10]}")
    before = line(root, "rev-parse", "--verify", "HEAD~1") or _deepened(root)
    return Base(before, f"the commit before this one, {before[:10]}") if before else None


def _deepened(root: Path) -> str:
    """The commit before this one, out of the remote of a shallow clone; empty when that cannot be had."""
    if line(root, "rev-parse", "--is-shallow-repository") != "true":
        return ""
    git(root, "fetch", "--quiet", "--deepen=1")
    return line(root, "rev-parse", "--verify", "HEAD~1")


def excuses(root: Path, base: Base) -> list[str]:
    """Why commits since the base break a contract, as their messages say."""
    return line(root, "log", f"--format=%(trailers:key={EXCUSE},valueonly,separator=%x0A)", f"{base.commit}..HEAD").split("\n")


def contracts_of(root: Path, base: Base, into: Path) -> bool:
    """Writes the base's proto/ into a folder; False where it has none."""
    files = line(root, "ls-tree", "-r", "--name-only", base.commit, "--", "proto").splitlines()
    for file in files:
        target = into / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(git(root, "show", f"{base.commit}:{file}"))
    return bool(files)


def compatible(root: Path, now: Path, folder: Path) -> bool:
    """Whether the contracts still are what they were, or may differ; says what they were compared with."""
    base = find_base(root)
    if base is None or not contracts_of(root, base, folder):
        print("contracts: NOT compared: there is no earlier commit here. `git fetch --unshallow` brings them")
        return True
    print(f"contracts: compared with {base.note}")
    proto.write_image(folder / "proto", folder / "base.binpb")
    if succeeded([str(BUF), "breaking", str(now), "--against", str(folder / "base.binpb")]):
        return True
    reasons = [reason for reason in excuses(root, base) if reason]
    if base.released or not reasons:
        remedy = "add a new field or method" if base.released else f'or say why in the commit\'s message: "{EXCUSE}: <reason>"'
        print(f"contracts: the above breaks whoever speaks them: {remedy}")
        return False
    print(f"contracts: broken, as nothing has been released: {'; '.join(reasons)}")
    return True


def main() -> None:
    """Exits with 1 after everything was checked and something was found."""
    generated = succeeded([sys.executable, "scripts/proto.py", "--check"])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        proto.write_image(ROOT / "proto", folder / "now.binpb")
        kept = [succeeded([str(BUF), "lint", str(folder / "now.binpb")]), compatible(ROOT, folder / "now.binpb", folder)]
    if not (generated and all(kept)):
        sys.exit(1)


if __name__ == "__main__":
    main()
