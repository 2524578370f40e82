"""Unpacks an uploaded archive. Nothing in it is trusted: every entry is checked before anything of it is written.

Our own checks, not tarfile's filters. Links are made last, so that no entry can be written through one.
"""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from shipoff.builder.assignment import BuildError, Limits, source_error

_CHUNK_BYTES = 1 << 20
# Long names and extended headers are read into memory whole.
_HEADER_BYTES = 1 << 20
_HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
# Source code packs 3 to 10 : 1; what packs much better is a bomb. Small archives may.
_RATIO = 200
_RATIO_FROM_BYTES = 64 << 20
_NAME_BYTES = 4096
_PART_BYTES = 255
_DEPTH = 100


class _Member(tarfile.TarInfo):
    """An entry whose headers cannot fill the memory."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:  # tarfile's own hook for subclasses
        if self.type in _HEADERS and self.size > _HEADER_BYTES:
            raise source_error("the archive holds an entry with an oversized header")
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise source_error("the archive holds a sparse file: pack it without --sparse")
        entry: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]  # not in typeshed
        return entry


class _Metered:
    """Reads through, and stops at what an archive may hold."""

    def __init__(self, file: gzip.GzipFile, *, packed_bytes: int, limit: int) -> None:
        self._file = file
        self._packed = packed_bytes
        self._limit = limit
        self._read = 0

    def read(self, size: int) -> bytes:
        chunk = self._file.read(size)
        self._read += len(chunk)
        if self._read > self._limit:
            raise source_error(f"the archive unpacks to more than {self._limit >> 20} MiB")
        if self._read > _RATIO_FROM_BYTES and self._read > _RATIO * self._packed:
            raise source_error(f"the archive unpacks to more than {_RATIO} times its size")
        return chunk


@dataclass(frozen=True)
class _Link:
    name: str
    path: Path
    target: str


def unpack(archive: Path, folder: Path, limits: Limits) -> int:
    """Unpacks a .tar.gz into a new folder; the number of files. Raises BuildError when it is damaged, unsafe or too large."""
    folder.mkdir()
    try:
        with gzip.open(archive, "rb") as file:
            metered = _Metered(file, packed_bytes=archive.stat().st_size, limit=limits.source_bytes)
            with tarfile.open(fileobj=metered, mode="r|", tarinfo=_Member, errorlevel=2) as tar:  # type: ignore[call-overload]  # read() is all it needs
                return _Unpacking(tar, folder, limits).everything()
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile, UnicodeError) as error:
        raise source_error(f"the archive is damaged: {error}") from error
    except (FileExistsError, NotADirectoryError) as error:
        raise source_error(f"the archive holds a name twice, as a folder and as a file: {error.filename}") from error


class _Unpacking:
    """One archive on its way to the disk."""

    def __init__(self, tar: tarfile.TarFile, folder: Path, limits: Limits) -> None:
        self._tar = tar
        self._folder = folder
        self._limits = limits
        self._files: set[str] = set()
        self._links: dict[str, _Link] = {}
        self._count = 0

    def everything(self) -> int:
        while (member := self._tar.next()) is not None:
            self._count += 1
            if self._count > self._limits.source_files:
                raise source_error(f"the archive holds more than {self._limits.source_files} entries")
            self._entry(member)
            # tarfile remembers every member it has seen.
            self._tar.members = []  # type: ignore[attr-defined]  # not in typeshed
        for link in self._links.values():
            _make_link(link)
        return len(self._files)

    def _entry(self, member: tarfile.TarInfo) -> None:
        name = checked_name(member.name)
        if name == ".":
            return
        path = self._folder / name
        if member.isdir():
            self._no_link_above(name, itself=True)
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
            return
        self._no_link_above(name, itself=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        if member.isreg():
            self._file(member, name, path)
        elif member.issym():
            self._links[name] = _Link(name, path, checked_target(name, member.linkname))
        elif member.islnk():
            self._copy(checked_name(member.linkname), name, path)
        else:
            raise source_error(f"the archive holds a device or pipe: {name}")

    def _no_link_above(self, name: str, *, itself: bool) -> None:
        """Raises when a folder above was a link in the archive."""
        parts = PurePosixPath(name).parts
        for length in range(1, len(parts) + (1 if itself else 0)):
            if "/".join(parts[:length]) in self._links:
                raise source_error(f"the archive writes through a link: {name}")

    def _file(self, member: tarfile.TarInfo, name: str, path: Path) -> None:
        content = self._tar.extractfile(member)
        if content is None:
            raise source_error(f"the archive is damaged at {name}")
        with _created(path, name, executable=bool(member.mode & 0o100)) as file:
            while chunk := content.read(_CHUNK_BYTES):
                file.write(chunk)
        self._links.pop(name, None)
        self._files.add(name)

    def _copy(self, target: str, name: str, path: Path) -> None:
        """A hard link, as a file of its own. Only to a file that this archive has brought."""
        if target not in self._files:
            raise source_error(f"the archive links {name} to {target}, which it does not hold")
        original = self._folder / target
        if target == name:
            return
        executable = bool(original.stat().st_mode & 0o100)
        with original.open("rb") as source, _created(path, name, executable=executable) as file:
            while chunk := source.read(_CHUNK_BYTES):
                file.write(chunk)
        self._files.add(name)


def _created(path: Path, name: str, *, executable: bool) -> IO[bytes]:
    """A new file, in the place of a former one of the same name."""
    try:
        if path.is_file() and not path.is_symlink():
            path.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        return os.fdopen(os.open(path, flags, 0o755 if executable else 0o644), "wb")
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise source_error(f"the archive holds {name} twice, as a folder and as a file") from error


def _make_link(link: _Link) -> None:
    try:
        link.path.symlink_to(link.target)
    except FileExistsError as error:
        raise source_error(f"the archive holds {link.name} twice, as a link and as a file") from error


def checked_name(name: str) -> str:
    """An entry's name, relative and plain. Raises BuildError when it is absolute, climbs out, or is too long."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or "\\" in name:
        raise _unsafe(name)
    encoded = os.fsencode(name)
    if len(encoded) > _NAME_BYTES or len(path.parts) > _DEPTH or any(len(os.fsencode(p)) > _PART_BYTES for p in path.parts):
        raise source_error(f"the archive holds a name that is too long: {name[:80]}…")
    return path.as_posix()


def checked_target(name: str, target: str) -> str:
    """A symbolic link's target. Raises BuildError when it leads out of the archive."""
    if not target or not leads_inside(name, target):
        raise source_error(f"the archive holds a link that leads out of it: {name[:80]} → {target[:80]}")
    return target


def leads_inside(name: str, target: str) -> bool:
    """Whether a link at `name` stays inside: it may climb at its beginning only, no higher than the root.

    A climb behind a name could pass through another link and leave from there; without it, links that each stay inside
    stay inside together.
    """
    if target.startswith("/") or "\0" in target:
        return False
    parts = PurePosixPath(target).parts
    climb = next((index for index, part in enumerate(parts) if part != ".."), len(parts))
    return ".." not in parts[climb:] and climb <= len(PurePosixPath(name).parts) - 1


def _unsafe(name: str) -> BuildError:
    return source_error(f"the archive holds an unsafe name: {name[:80]}")
