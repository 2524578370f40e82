"""What the detector sees of a source: every path, and the contents of manifests and likely entry files."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from shipoff.builder.assignment import Limits, source_error
from shipoff.common.manifests import NOT_DESCENDED, SKIPPED, SourceFile, selected
from shipoff.contracts.build.v1 import build_pb2

# Keeps the message below what one call may carry.
_PATHS_BYTES = 8 << 20
_CHUNK_BYTES = 1 << 20


def take(root: Path, root_directory: str, limits: Limits) -> build_pb2.Snapshot:
    """The snapshot of a source folder. Raises BuildError when it holds too many files or too many bytes."""
    digest = hashlib.sha256()
    snapshot = build_pb2.Snapshot()
    files: list[SourceFile] = []
    size = names = 0
    for path, entry in sorted(_walk(root)):
        status = entry.stat(follow_symlinks=False)
        snapshot.paths.append(path)
        size += status.st_size
        names += len(path)
        if len(snapshot.paths) > limits.source_files or names > _PATHS_BYTES:
            raise source_error(f"the source holds more than {limits.source_files} files: leave out what is generated")
        if size > limits.source_bytes:
            raise source_error(f"the source holds more than {limits.source_bytes >> 20} MiB")
        _digest_entry(digest, path, entry, status)
        if stat.S_ISREG(status.st_mode):
            files.append(SourceFile(path, status.st_size))
    for path, count in selected(files, root_directory):
        with (root / path).open("rb") as opened:
            snapshot.contents[path] = opened.read(count)
    snapshot.digest = f"sha256:{digest.hexdigest()}"
    return snapshot


def _walk(root: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Files and links by their path from the root; links are not followed."""
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                path = f"{folder}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in SKIPPED and entry.name not in NOT_DESCENDED:
                        waiting.append(f"{path}/")
                elif _is_text(path) and entry.name not in SKIPPED:
                    yield path, entry


def _is_text(path: str) -> bool:
    """Names that are not UTF-8 cannot travel; they are packed all the same."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _digest_entry(digest: hashlib._Hash, path: str, entry: os.DirEntry[str], status: os.stat_result) -> None:
    """Adds kind, path, size and content: two sources share a digest only if they are the same."""
    kind = "link" if stat.S_ISLNK(status.st_mode) else "exec" if status.st_mode & 0o100 else "file"
    digest.update(f"{kind}\0{path}\0{status.st_size}\0".encode())
    if kind == "link":
        digest.update(os.fsencode(Path(entry.path).readlink()))
    elif stat.S_ISREG(status.st_mode):
        with Path(entry.path).open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
