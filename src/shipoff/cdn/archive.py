"""Reads a static artifact without trusting it: what it may hold is decided before a single file is written.

Python's own extraction filters are not relied on (CVE-2025-4517 and its neighbours): only headers are parsed by `tarfile`,
names, kinds and sizes are judged here, and no file is ever written through a link.
"""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from shipoff.common.errors import InvalidInput

_COPY_BYTES = 256 << 10
# One header of the archive: a name, or attributes. tarfile reads it at once.
_HEADER_BYTES = 1 << 20
# Small archives may compress as well as they like.
_RATIO_FLOOR_BYTES = 32 << 20
_NAME_BYTES = 255
_PATH_BYTES = 1024
_LINK_HOPS = 16


@dataclass(frozen=True)
class Caps:
    """How much an archive may hold."""

    bytes: int
    files: int
    # Unpacked bytes for one packed.
    ratio: int


@dataclass(frozen=True)
class Contents:
    """What is to be unpacked, by path relative to the root, without what is never served."""

    files: frozenset[str]
    # Path of the link → the path it shows, both inside.
    links: dict[str, str]


class _Bounded(io.RawIOBase):
    """The unpacked archive, up to the caps."""

    def __init__(self, packed: gzip.GzipFile, limit_bytes: int) -> None:
        super().__init__()
        self._packed = packed
        self._limit = limit_bytes
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _HEADER_BYTES:
            raise InvalidInput("the artifact has an oversized header", field="artifact")
        data = self._packed.read(size)
        self._at += len(data)
        if self._at > self._limit:
            raise InvalidInput(
                f"the artifact unpacks to more than {self._limit >> 20} MiB, or packs too well to be files",
                field="artifact",
                remedy="leave out what is not served",
            )
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset < self._at:
            raise InvalidInput("the artifact is not to be read twice", field="artifact")
        while self._at < offset and self.read(min(_COPY_BYTES, offset - self._at)):
            pass
        return self._at


@contextmanager
def _opened(path: Path, caps: Caps) -> Iterator[tarfile.TarFile]:
    limit = min(caps.bytes, max(_RATIO_FLOOR_BYTES, path.stat().st_size * caps.ratio))
    try:
        with gzip.open(path) as packed, tarfile.open(fileobj=_Bounded(packed, limit), mode="r:") as tar:
            yield tar
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, UnicodeError, RecursionError) as error:
        raise InvalidInput(f"the artifact is no .tar.gz: {error}", field="artifact") from error


def inspect(path: Path, caps: Caps) -> Contents:
    """Judges every entry. Raises InvalidInput for the first that is not a file, a folder or a link that stays inside."""
    kinds: dict[str, str] = {"": "folder"}
    links: dict[str, str] = {}
    with _opened(path, caps) as tar:
        for member in tar:
            name = _checked_name(member.name)
            kind = _kind(member, name)
            if kind == "link":
                links[name] = member.linkname
            _place(kinds, name, kind)
            if len(kinds) > caps.files:
                raise InvalidInput(f"the artifact holds more than {caps.files} files", field="artifact")
    targets = {name: _resolve(name, kinds, links) for name in links}
    return Contents(
        files=frozenset(name for name, kind in kinds.items() if kind == "file" and served(name)),
        links={name: at for name, at in targets.items() if at is not None and served(name) and served(at)},
    )


def _checked_name(name: str) -> str:
    """The name relative to the root; "" is the root itself."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    clean = "/".join(parts)
    too_long = len(clean.encode(errors="surrogateescape")) > _PATH_BYTES or any(
        len(part.encode(errors="surrogateescape")) > _NAME_BYTES for part in parts
    )
    if name.startswith("/") or ".." in parts or too_long or any(ord(c) < 32 or ord(c) == 127 for c in name):
        raise InvalidInput(f"the artifact holds an unsafe name: {name[:200]!r}", field="artifact")
    return clean


def _kind(member: tarfile.TarInfo, name: str) -> str:
    if member.isdir():
        return "folder"
    if member.isreg() and not member.issparse() and name:
        return "file"
    if member.issym() and name:
        return "link"
    raise InvalidInput(f"the artifact holds something else than files and folders: {name!r}", field="artifact")


def _place(kinds: dict[str, str], name: str, kind: str) -> None:
    """Adds a name below folders only, and once unless it is a folder again."""
    for parent in map(str, PurePosixPath(name).parents):
        if kinds.setdefault("" if parent == "." else parent, "folder") != "folder":
            raise InvalidInput(f"the artifact holds a file below a file or a link: {name!r}", field="artifact")
    if name in kinds and not kind == kinds[name] == "folder":
        raise InvalidInput(f"the artifact holds a name twice: {name!r}", field="artifact")
    kinds[name] = kind


def _resolve(name: str, kinds: dict[str, str], links: dict[str, str]) -> str | None:
    """Where a link leads, through other links; None when to nothing. Raises InvalidInput when out of the artifact."""
    at = name.split("/")[:-1]
    waiting = _steps(name, links[name])
    hops = 0
    while waiting:
        step = waiting.pop(0)
        if step == "..":
            if not at:
                raise InvalidInput(f"the artifact holds a link that leads out of it: {name!r}", field="artifact")
            at.pop()
            continue
        here = "/".join([*at, step])
        if kinds.get(here) == "link":
            hops += 1
            if hops > _LINK_HOPS:
                return None
            waiting = _steps(here, links[here]) + waiting
        else:
            at.append(step)
    found = "/".join(at)
    return found if found in kinds and not name.startswith(f"{found}/") and found else None


def _steps(name: str, target: str) -> list[str]:
    if target.startswith("/") or "\0" in target:
        raise InvalidInput(f"the artifact holds a link that leads out of it: {name!r}", field="artifact")
    return [step for step in target.split("/") if step not in ("", ".")]


def served(name: str) -> bool:
    """Whether a path is ever served: nothing that begins with a dot but /.well-known (RFC 8615)."""
    first, *rest = name.split("/")
    return (not first.startswith(".") or first == ".well-known") and not any(part.startswith(".") for part in rest)


def unpack(path: Path, contents: Contents, root: Path, caps: Caps) -> None:
    """Writes the contents below `root`, an empty folder, readable by everybody who can reach it. Raises OSError."""
    with _opened(path, caps) as tar:
        for member in tar:
            name = _checked_name(member.name)
            if member.isreg() and name in contents.files:
                _write(tar, member, root / name)
    for name, target in contents.links.items():
        link = root / name
        _folders(link.parent, root)
        up = "../" * name.count("/")
        link.symlink_to(f"{up}{target}")


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    source = tar.extractfile(member)
    if source is None:
        raise InvalidInput(f"the artifact has no content for {member.name!r}", field="artifact")
    _folders(target.parent, Path(target.anchor))
    with target.open("xb") as file:
        while chunk := source.read(_COPY_BYTES):
            file.write(chunk)
    target.chmod(stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IROTH)


def _folders(folder: Path, root: Path) -> None:
    if folder == root or folder.is_dir():
        return
    _folders(folder.parent, root)
    folder.mkdir()
    folder.chmod(0o755)
