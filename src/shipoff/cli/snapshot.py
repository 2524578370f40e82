"""What the platform has to see of a folder to plan it: every path that an upload would hold, and the text of manifests."""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path

from shipoff.cli.errors import UsageFailure
from shipoff.cli.packing import Limits, members
from shipoff.common.manifests import SourceFile, selected


@dataclass(frozen=True)
class Snapshot:
    """Paths with slashes, sorted; contents by path. The digest is over paths, sizes and what was read."""

    paths: list[str]
    contents: dict[str, str]
    digest: str


def take(folder: Path, root_directory: str) -> Snapshot:
    """The snapshot of a folder without what is ignored. Raises UsageFailure when it holds too many files."""
    found = {member.path: member for member in members(folder) if not stat.S_ISDIR(member.status.st_mode)}
    if len(found) > Limits().files:
        raise UsageFailure(
            f"the folder has {len(found)} files; at most {Limits().files} can be planned",
            field="PATH",
            remedy="leave out what the app does not need in .shipoffignore",
        )
    regular = [SourceFile(path, member.status.st_size) for path, member in found.items() if stat.S_ISREG(member.status.st_mode)]
    contents: dict[str, str] = {}
    for path, count in selected(regular, root_directory):
        text = _text(found[path].source, count)
        if text is not None:
            contents[path] = text
    paths = sorted(path for path in found if _travels(path))
    digest = hashlib.sha256()
    for path in paths:
        content = contents.get(path, "").encode()
        digest.update(f"{path}\0{found[path].status.st_size}\0{hashlib.sha256(content).hexdigest()}\0".encode())
    return Snapshot(paths, contents, f"sha256:{digest.hexdigest()}")


def _travels(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in path


def _text(file: Path, count: int) -> str | None:
    """The beginning of a text file; None for what is no UTF-8 text."""
    try:
        with file.open("rb") as opened:
            data = opened.read(count)
    except OSError as error:
        raise UsageFailure(f"{file} cannot be read: {error.strerror}", field="PATH") from error
    # Where the cut goes through a character, that character is left out.
    text = data.decode(errors="ignore") if len(data) == count else _strict(data)
    return None if text is None or "\0" in text else text


def _strict(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
