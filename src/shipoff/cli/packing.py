"""Packs a folder into an archive: the same files give the same bytes, wherever and whenever it is done."""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from shipoff.cli.errors import UsageFailure
from shipoff.cli.ignore import IGNORE_FILES, Rules
from shipoff.common.amounts import size

# 1980-01-01: the same for every file, and the earliest a zip archive (a Python wheel) can hold.
_MTIME = 315_532_800
_LEVEL = 6
_CHUNK_BYTES = 1 << 20
_IN_MEMORY_BYTES = 8 << 20


@dataclass(frozen=True)
class Limits:
    """What an upload may hold at most."""

    files: int = 50_000
    # Before and after compression.
    content_bytes: int = 1 << 30
    archive_bytes: int = 256 << 20


@dataclass(frozen=True)
class Member:
    """A file, folder or symlink of the upload: its path below the root, with slashes."""

    path: str
    source: Path
    status: os.stat_result


@dataclass(frozen=True)
class Archive:
    """A packed folder. `content` is at its beginning and belongs to whoever asked for it: close it."""

    content: IO[bytes]
    # "sha256:<hex>" of the archive's bytes.
    digest: str
    size_bytes: int
    files: int
    content_bytes: int
    # Things the person may want to know.
    notes: tuple[str, ...]


def pack(folder: Path, limits: Limits | None = None) -> Archive:
    """A .tar.gz of the folder without what is ignored.

    Raises UsageFailure when it is no folder, holds nothing, is too big, or a symlink of it leads out of it.
    """
    limits = limits or Limits()
    if not folder.is_dir():
        raise UsageFailure(f"{folder} is no folder", field="PATH")
    members, skipped = _selected(folder)
    files = [member for member in members if not stat.S_ISDIR(member.status.st_mode)]
    content_bytes = sum(member.status.st_size for member in files)
    if not files:
        raise UsageFailure(f"there is nothing to upload in {folder}", remedy=f"is everything in {' or '.join(IGNORE_FILES)}?")
    _check_limits(files, content_bytes, limits)
    content, digest, size_bytes = _write(members)
    if size_bytes > limits.archive_bytes:
        content.close()
        raise _too_big(f"the packed folder has {size(size_bytes)}; at most {size(limits.archive_bytes)} can be uploaded", files)
    notes = [f"{path} is neither file nor folder and stays behind" for path in skipped]
    notes += [
        f"{member.path} is uploaded: if it holds secrets, ignore it and use `shipoff env import`"
        for member in files
        if member.path == ".env"
    ]
    return Archive(content, digest, size_bytes, len(files), content_bytes, tuple(notes))


def members(folder: Path) -> list[Member]:
    """What an upload of the folder holds: files, folders and links. Raises UsageFailure."""
    return _selected(folder)[0]


def _selected(folder: Path) -> tuple[list[Member], list[str]]:
    """What goes into the archive in its order, and the paths of what cannot (sockets, devices)."""
    members: list[Member] = []
    skipped: list[str] = []
    root = folder.resolve()
    for member in _walk(folder, "", Rules()):
        mode = member.status.st_mode
        if stat.S_ISLNK(mode):
            _check_link(member, root)
        if stat.S_ISLNK(mode) or stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            members.append(member)
        else:
            skipped.append(member.path)
    return members, skipped


def _walk(folder: Path, prefix: str, above: Rules) -> Iterator[Member]:
    """Every member below the folder, each folder before what it holds, in the order of the bytes of their names."""
    rules = above.entering(folder, prefix)
    try:
        for entry in sorted(folder.iterdir(), key=lambda path: os.fsencode(path.name)):
            member = Member(prefix + entry.name, entry, entry.lstat())
            is_folder = stat.S_ISDIR(member.status.st_mode)
            if rules.leaves_out(member.path, is_folder=is_folder) or (is_folder and (member.source / "pyvenv.cfg").is_file()):
                continue
            yield member
            if is_folder:
                yield from _walk(member.source, f"{member.path}/", rules)
    except OSError as error:
        raise UsageFailure(f"{error.filename or folder} cannot be read: {error.strerror}") from error


def _check_link(member: Member, root: Path) -> None:
    target = str(member.source.readlink())
    if not _leads_inside(member.path, target) or not member.source.resolve().is_relative_to(root):
        raise UsageFailure(
            f"{member.path} is a symlink to {target}, outside the folder",
            field=member.path,
            remedy="copy what it points at into the folder, or add it to .shipoffignore",
        )


def _leads_inside(path: str, target: str) -> bool:
    """Whether a link's target stays below the root: it may climb at its beginning only, as the platform demands it too."""
    parts = PurePosixPath(target).parts
    climb = next((index for index, part in enumerate(parts) if part != ".."), len(parts))
    return not target.startswith("/") and ".." not in parts[climb:] and climb <= path.count("/")


def _check_limits(files: list[Member], content_bytes: int, limits: Limits) -> None:
    if len(files) > limits.files:
        raise _too_big(f"the folder has {len(files)} files; at most {limits.files} can be uploaded", files, by_count=True)
    if content_bytes > limits.content_bytes:
        raise _too_big(f"the folder has {size(content_bytes)}; at most {size(limits.content_bytes)} can be uploaded", files)


def _too_big(message: str, files: list[Member], *, by_count: bool = False) -> UsageFailure:
    """Says where most of it is: that is what should be ignored."""
    weights: Counter[str] = Counter()
    for member in files:
        weights[member.path.partition("/")[0]] += 1 if by_count else member.status.st_size
    biggest = ", ".join(f"{path} ({weight if by_count else size(weight)})" for path, weight in weights.most_common(3))
    return UsageFailure(
        message, field="PATH", remedy=f"most of it is in {biggest}; leave out what the app does not need in .shipoffignore"
    )


def _write(members: list[Member]) -> tuple[IO[bytes], str, int]:
    """The archive at its beginning, its digest and its size."""
    content = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115 - the caller closes it
    try:
        with (
            gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=content, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as archive,
        ):
            for member in members:
                _add(archive, member)
        size_bytes = content.tell()
        content.seek(0)
        digest = hashlib.sha256()
        while chunk := content.read(_CHUNK_BYTES):
            digest.update(chunk)
        content.seek(0)
    except BaseException:
        content.close()
        raise
    return content, f"sha256:{digest.hexdigest()}", size_bytes


def _add(archive: tarfile.TarFile, member: Member) -> None:
    info = tarfile.TarInfo(member.path)
    info.mtime = _MTIME
    mode = member.status.st_mode
    info.mode = 0o755 if stat.S_ISDIR(mode) or mode & stat.S_IXUSR else 0o644
    if stat.S_ISDIR(mode):
        info.type = tarfile.DIRTYPE
        archive.addfile(info)
    elif stat.S_ISLNK(mode):
        info.type = tarfile.SYMTYPE
        info.mode = 0o777
        info.linkname = str(member.source.readlink())
        archive.addfile(info)
    else:
        info.size = member.status.st_size
        _add_file(archive, info, member)


def _add_file(archive: tarfile.TarFile, info: tarfile.TarInfo, member: Member) -> None:
    try:
        # Not through a symlink: one may have taken the file's place since the folder was listed.
        with open(os.open(member.source, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:  # noqa: PTH123
            archive.addfile(info, file)
    except OSError as error:
        why = error.strerror or "it changed meanwhile"
        raise UsageFailure(f"{member.path} cannot be read: {why}", field=member.path) from error
