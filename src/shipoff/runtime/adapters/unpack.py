"""Unpacks an artifact as the tenant it belongs to. A script with no imports of the platform's.

    python -I -S unpack.py <uid or -> <empty folder> <most bytes> <most entries>  < archive

The archive was made by a tenant's build, so nothing in it is trusted: every entry is checked by rules of our own (not by
tarfile's filters) and written without following a link. Exit codes: REJECTED for a bad archive, FULL for a full disk, both
with a sentence on standard error.
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
import sys
import tarfile
from pathlib import Path
from typing import IO

REJECTED = 3
FULL = 4
# Past this, an archive has to be less than RATIO times larger unpacked than packed.
_RATIO_FROM_BYTES = 256 << 20
_RATIO = 200
_CHUNK_BYTES = 1 << 20
# A virtual environment's interpreter is the machine's own, so this link may lead outside.
_INTERPRETER_LINK = re.compile(r"(.+/)?bin/python[0-9.]*")
_INTERPRETER = re.compile(r"/([^/]+/)+python[0-9.]*")


class Rejected(Exception):
    """The archive breaks a rule."""


class _Counted:
    """A stream that knows how much was read from it."""

    def __init__(self, inner: IO[bytes]) -> None:
        self._inner = inner
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        data = self._inner.read(size)
        self.count += len(data)
        return data


class Unpacker:
    """Writes the entries of one archive into one folder."""

    def __init__(self, target: str, *, most_bytes: int, most_entries: int) -> None:
        self._target = target
        self._most_bytes = most_bytes
        self._most_entries = most_entries
        self._links: set[str] = set()
        self._files: set[str] = set()
        self._folders: set[str] = set()
        self._bytes = 0
        self._entries = 0

    def unpack(self, stream: IO[bytes]) -> None:
        """Unpacks all of it. Raises Rejected, OSError."""
        counted = _Counted(stream)
        try:
            with tarfile.open(fileobj=counted, mode="r|*") as archive:  # type: ignore[call-overload]  # reads only
                for member in archive:
                    self._take(archive, member, counted)
        except (tarfile.TarError, EOFError) as error:
            raise Rejected(f"it is not a whole tar archive: {error}") from error

    def _take(self, archive: tarfile.TarFile, member: tarfile.TarInfo, source: _Counted) -> None:
        self._entries += 1
        if self._entries > self._most_entries:
            raise Rejected(f"it has more than {self._most_entries} entries")
        name = self._checked(member.name)
        if not name:
            return
        path = posixpath.join(self._target, name)
        self._folder(path if member.isdir() else posixpath.dirname(path))
        if member.isdir():
            return
        if member.issym():
            self._link(name, path, member.linkname)
        elif member.islnk():
            self._hard_link(path, self._checked(member.linkname))
        elif member.isreg():
            self._write(archive, member, path, source)
        else:
            raise Rejected(f"{member.name!r} is neither file, folder nor link")
        if not member.issym():
            self._files.add(name)

    def _folder(self, path: str) -> None:
        """Asks the file system once for each: that is what unpacking many small files takes."""
        if path not in self._folders:
            Path(path).mkdir(parents=True, exist_ok=True)
            self._folders.add(path)

    def _checked(self, name: str) -> str:
        """The name without `./`; empty for the root itself. Raises Rejected for one that leads outside."""
        if "\0" in name or "\\" in name or name.startswith("/") or ".." in name.split("/"):
            raise Rejected(f"the name {name!r} leads outside")
        clean = posixpath.normpath(name)
        if clean == ".":
            return ""
        parts = clean.split("/")
        if any("/".join(parts[:count]) in self._links for count in range(1, len(parts))):
            raise Rejected(f"{name!r} lies behind a link")
        return clean

    def _link(self, name: str, path: str, target: str) -> None:
        interpreter = _INTERPRETER_LINK.fullmatch(name) and _INTERPRETER.fullmatch(target) and ".." not in target
        if not interpreter and not _stays_inside(posixpath.dirname(name), target):
            raise Rejected(f"the link {name!r} leads outside, to {target!r}")
        Path(path).symlink_to(target)
        self._links.add(name)

    def _hard_link(self, path: str, target: str) -> None:
        if target not in self._files:
            raise Rejected(f"a hard link to {target!r}, which is no file of the archive")
        os.link(posixpath.join(self._target, target), path, follow_symlinks=False)

    def _write(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str, source: _Counted) -> None:
        content = archive.extractfile(member)
        if content is None:
            raise Rejected(f"{member.name!r} has no content")
        mode = (member.mode & 0o755) | 0o600
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        try:
            while chunk := content.read(_CHUNK_BYTES):
                self._count(len(chunk), source)
                _write_all(descriptor, chunk)
            os.utime(descriptor, (member.mtime, member.mtime))
        finally:
            os.close(descriptor)

    def _count(self, size: int, source: _Counted) -> None:
        self._bytes += size
        if self._bytes > self._most_bytes:
            raise Rejected(f"it is larger than {self._most_bytes} bytes unpacked")
        if self._bytes > _RATIO_FROM_BYTES and self._bytes > _RATIO * source.count:
            raise Rejected(f"it grows more than {_RATIO} times when unpacked")


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _stays_inside(folder: str, target: str) -> bool:
    """Whether a link in `folder` leads to a place inside. `..` counts only in front: after a name it may follow a link."""
    parts = [part for part in target.split("/") if part not in ("", ".")]
    climbs = next((i for i, part in enumerate(parts) if part != ".."), len(parts))
    depth = len(folder.split("/")) if folder else 0
    return bool(target) and not target.startswith("/") and climbs <= depth and ".." not in parts[climbs:]


def _become(uid: str) -> None:
    if uid == "-":
        return
    os.setgroups([])
    os.setresgid(int(uid), int(uid), int(uid))
    os.setresuid(int(uid), int(uid), int(uid))


def main(arguments: list[str]) -> int:
    """Unpacks standard input; the exit code."""
    uid, target, most_bytes, most_entries = arguments
    os.umask(0o022)
    _become(uid)
    try:
        Unpacker(target, most_bytes=int(most_bytes), most_entries=int(most_entries)).unpack(sys.stdin.buffer)
    except Rejected as error:
        sys.stderr.write(f"{error}\n")
        return REJECTED
    except FileExistsError as error:
        sys.stderr.write(f"{error.filename!r} is in it twice\n")
        return REJECTED
    except OSError as error:
        sys.stderr.write(f"{error.strerror}\n")
        return FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
