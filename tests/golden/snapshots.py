"""Snapshots of folders on disk, as the builder makes them: every path, and the contents of what detection may read."""

from __future__ import annotations

from pathlib import Path

from shipoff.detector.domain import Snapshot

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
PLANS = Path(__file__).parent / "plans"
_LEFT_OUT = {"node_modules", ".venv", "dist", "__pycache__", ".git"}
_LARGEST_BYTES = 1 << 20


def snapshot_of(folder: Path) -> Snapshot:
    """The snapshot of a folder without what builds leave in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not _LEFT_OUT & set(path.relative_to(folder).parts))
    names = {path.relative_to(folder).as_posix(): path for path in files}
    contents = {name: path.read_bytes() for name, path in names.items() if path.stat().st_size <= _LARGEST_BYTES}
    return Snapshot(paths=tuple(names), contents=contents)


def examples() -> list[str]:
    """The names of the example apps."""
    return sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
