"""The files below `live/` that Caddy reads as it serves: each replaced at once, by a rename."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

from shipoff.cdn.resources import LiveFile


def write(root: Path, files: Iterable[LiveFile]) -> None:
    """Makes these files and links say what they should; those that do already are left alone."""
    _open_folder(root)
    for file in files:
        path = root / file.path
        if _current(path) == file:
            continue
        _open_folder(path.parent)
        _replace(path, file)


def _current(path: Path) -> LiveFile | None:
    name = f"{path.parent.name}/{path.name}"
    with contextlib.suppress(OSError):
        if path.is_symlink():
            return LiveFile(name, str(path.readlink()), link=True)
        return LiveFile(name, path.read_text())
    return None


def _replace(path: Path, file: LiveFile) -> None:
    fresh = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    if file.link:
        fresh.symlink_to(file.value)
    else:
        fresh.write_text(file.value)
        fresh.chmod(0o644)
    fresh.replace(path)


def _open_folder(folder: Path) -> None:
    """A folder that the edge's account can pass, whatever the umask."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)


def prune(root: Path, files: Iterable[LiveFile]) -> None:
    """Removes everything else."""
    wanted = {file.path for file in files}
    folders = {name.split("/")[0] for name in wanted}
    for folder in root.iterdir():
        if folder.name not in folders:
            shutil.rmtree(folder, ignore_errors=True)
            continue
        for path in folder.iterdir():
            if f"{folder.name}/{path.name}" not in wanted:
                path.unlink(missing_ok=True)
