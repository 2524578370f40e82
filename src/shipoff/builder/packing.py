"""Packs a folder so that the same content gives the same bytes: sorted, no times, no owners, plain modes.

The format is a .tar.gz (POSIX pax, gzip at its fastest): POSIX.1-2001 `pax`, RFC 1952.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from shipoff.builder.assignment import artifact_error
from shipoff.builder.unpacking import leads_inside

_GZIP_LEVEL = 1
_NEVER = frozenset({".git", ".hg", ".svn"})
# What a server of files would hand to anybody.
_NEVER_SERVED = frozenset({".htpasswd", ".htaccess", ".DS_Store", ".npmrc", "shipoff.toml", ".shipoffignore"})
_SHOWN = 20
# A virtual environment's interpreter is the machine's own: this link leads outside, and runtime lets it.
_INTERPRETER_LINK = re.compile(r"(.+/)?bin/python[0-9.]*")
_INTERPRETER = re.compile(r"/([^/]+/)+python[0-9.]*")


@dataclass(frozen=True)
class Packing:
    """What to pack: an app's folder with everything it needs, or files to serve."""

    folder: Path
    served: bool
    limit_bytes: int


@dataclass(frozen=True)
class Packed:
    """A finished archive: "sha256:<hex>", its size in bytes, and how many files it holds."""

    digest: str
    size_bytes: int
    files: int


class _Digesting(io.RawIOBase):
    """Writes through to a file, and knows what it wrote."""

    def __init__(self, file: IO[bytes], limit_bytes: int) -> None:
        super().__init__()
        self._file = file
        self._limit = limit_bytes
        self.digest = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]  # gzip writes bytes only
        self.size += len(data)
        if self.size > self._limit:
            raise artifact_error(f"the artifact is larger than {self._limit >> 20} MiB: leave out what the app does not need")
        self.digest.update(data)
        return self._file.write(data)


def pack(packing: Packing, target: Path) -> Packed:
    """Writes the archive. Raises BuildError when it holds a link that leads out, a device, or is too large."""
    count = 0
    with target.open("wb") as file:
        sink = _Digesting(file, packing.limit_bytes)
        with (
            gzip.GzipFile(filename="", mode="wb", compresslevel=_GZIP_LEVEL, fileobj=sink, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            for name, path in _entries(packing):
                _add(tar, name, path, packing)
                count += 1
    return Packed(f"sha256:{sink.digest.hexdigest()}", sink.size, count)


def _entries(packing: Packing) -> Iterator[tuple[str, Path]]:
    """Every entry below the folder, in the order of its name; folders before what they hold."""
    waiting = [("", packing.folder)]
    while waiting:
        prefix, folder = waiting.pop()
        if prefix:
            yield prefix, folder
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if _kept(entry.name, packing)), key=lambda entry: entry.name)
        below = []
        for entry in entries:
            name = f"{prefix}/{entry.name}" if prefix else entry.name
            if entry.is_dir(follow_symlinks=False):
                below.append((name, Path(entry.path)))
            else:
                yield name, Path(entry.path)
        waiting.extend(reversed(below))


def _kept(name: str, packing: Packing) -> bool:
    if name in _NEVER:
        return False
    return not (packing.served and (name in _NEVER_SERVED or name == ".env" or name.startswith(".env.")))


def _add(tar: tarfile.TarFile, name: str, path: Path, packing: Packing) -> None:
    status = path.lstat()
    entry = tarfile.TarInfo(name)
    entry.mode = 0o755 if status.st_mode & 0o100 else 0o644
    if stat.S_ISDIR(status.st_mode):
        entry.type = tarfile.DIRTYPE
        entry.mode = 0o755
        tar.addfile(entry)
    elif stat.S_ISLNK(status.st_mode):
        entry.type = tarfile.SYMTYPE
        entry.mode = 0o777
        entry.linkname = _checked_link(name, str(path.readlink()), packing)
        tar.addfile(entry)
    elif stat.S_ISREG(status.st_mode):
        entry.size = status.st_size
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            tar.addfile(entry, file)
    elif not stat.S_ISSOCK(status.st_mode):
        raise artifact_error(f"the artifact would hold a device or a pipe: {name}")


def _checked_link(name: str, target: str, packing: Packing) -> str:
    if leads_inside(name, target):
        return target
    if not packing.served and _INTERPRETER_LINK.fullmatch(name) and _INTERPRETER.fullmatch(target) and ".." not in target:
        return target
    root = str(packing.folder)
    if target.startswith(f"{root}/") and ".." not in target.split("/"):
        # An absolute link into the folder itself: make it one that survives the move.
        inside = target[len(root) + 1 :]
        return os.path.relpath(inside, os.path.dirname(name) or ".")  # noqa: PTH120 - a name in the archive
    raise artifact_error(f"the artifact would hold a link that leads out of it: {name} → {target}")


def check_output(folder: Path, shown: str, root: Path) -> None:
    """Raises BuildError unless a static site's folder is there and has an index.html."""
    if folder.is_dir() and folder.resolve().is_relative_to(root.resolve()):
        if (folder / "index.html").is_file():
            return
        problem = f"the folder {shown!r} has no index.html"
    else:
        problem = f"the build left no folder {shown!r}"
    found = ", ".join(_folders_with_index(root)) or "none"
    raise artifact_error(f"{problem}; folders with an index.html: {found}. Set the output directory, or check the build")


def _folders_with_index(root: Path) -> list[str]:
    """Where a build may have put its pages instead."""
    found = []
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if name not in _NEVER and name != "node_modules")
        if "index.html" in files:
            found.append(os.path.relpath(folder, root))
        if len(found) == _SHOWN:
            break
    return found
