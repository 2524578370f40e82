"""Reading what users wrote: JSON, TOML, requirements and plain text. What cannot be read is said, never raised."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import cast

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from shipoff.detector.domain import Snapshot

MAX_MANIFEST_BYTES = 4 << 20
MAX_SOURCE_BYTES = 256 << 10
_MAX_INCLUDES = 20
_MAX_REQUIREMENTS = 5000
# tomllib needs time by the square of the number of a key's parts: these keep the worst file at a few seconds.
_MAX_LOCKFILE_DOTS = 50
_MAX_TOML_BYTES = 256 << 10
_MAX_TOML_DOTS = 200
_HASH_OPTION = re.compile(r"\s--(?:hash|config-settings?|global-option)\b")
_WARNED_LINES = 3

Table = dict[str, object]


@dataclass(frozen=True)
class Reading:
    """What a file holds. `unreadable` says why there is nothing, for the user."""

    table: Table = field(default_factory=dict)
    unreadable: str = ""


def text(snapshot: Snapshot, path: str, *, limit: int = MAX_SOURCE_BYTES) -> str:
    """The file's text, without a byte order mark; empty when it was not sent, is no UTF-8 or too large."""
    data = snapshot.contents.get(path, b"")
    if len(data) > limit:
        return ""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return ""


def _reading(snapshot: Snapshot, path: str, kind: str) -> Reading:
    data = snapshot.contents.get(path)
    if data is None:
        return Reading(unreadable=f"{path} was not read" if snapshot.has(path) else "")
    if len(data) > MAX_MANIFEST_BYTES:
        return Reading(unreadable=f"{path} is larger than {MAX_MANIFEST_BYTES >> 20} MiB")
    if kind == "TOML" and (wrong := _too_costly(path, data)):
        return Reading(unreadable=wrong)
    try:
        source = data.decode("utf-8-sig")
        value = json.loads(source) if kind == "JSON" else tomllib.loads(source)
        if "\\u" in source:
            # An escape can stand for half a character, which no message could carry.
            json.dumps(value, ensure_ascii=False, default=str).encode()
    except RecursionError:
        return Reading(unreadable=f"{path} is nested too deeply")
    except ValueError as error:
        return Reading(unreadable=f"{path} is not valid {kind}: {str(error)[:200]}")
    if not isinstance(value, dict):
        return Reading(unreadable=f"{path} should hold an object, but holds a {type(value).__name__}")
    return Reading(table=value)


def _too_costly(path: str, data: bytes) -> str:
    """Why parsing this TOML file would take too long; empty: it would not."""
    locked = path.endswith(".lock")
    dots = _MAX_LOCKFILE_DOTS if locked else _MAX_TOML_DOTS
    if not locked and len(data) > _MAX_TOML_BYTES:
        return f"{path} is larger than {_MAX_TOML_BYTES >> 10} KiB"
    return f"{path} has a line with more than {dots} dots" if any(line.count(b".") > dots for line in data.splitlines()) else ""


def json_table(snapshot: Snapshot, path: str) -> Reading:
    """A JSON file (RFC 8259) whose top level is an object."""
    return _reading(snapshot, path, "JSON")


def toml_table(snapshot: Snapshot, path: str) -> Reading:
    """A TOML file."""
    return _reading(snapshot, path, "TOML")


def locked_packages(snapshot: Snapshot, path: str) -> Reading:
    """The lock file of uv or poetry; where only the head of a long one was sent, up to its last whole package."""
    reading = toml_table(snapshot, path)
    data = snapshot.contents.get(path, b"")
    head = data.rpartition(b"\n[[package]]")[0]
    if not reading.unreadable or not head:
        return reading
    shorter = toml_table(Snapshot((path,), {path: head}), path)
    return reading if shorter.unreadable else shorter


def table_at(table: Table, *keys: str) -> Table:
    """The table at these keys; empty when there is none or it is something else."""
    value: object = table
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return cast(Table, value) if isinstance(value, dict) else {}


def text_at(table: Table, *keys: str) -> str:
    """The text at these keys, stripped; empty when there is none or it is something else."""
    value = table_at(table, *keys[:-1]).get(keys[-1])
    return value.strip() if isinstance(value, str) else ""


def list_at(table: Table, *keys: str) -> list[object]:
    """The list at these keys; empty when there is none or it is something else."""
    value = table_at(table, *keys[:-1]).get(keys[-1])
    return value if isinstance(value, list) else []


@dataclass(frozen=True)
class Requirements:
    """Distributions by canonical name with the extras asked for, and the files that named them."""

    extras: dict[str, frozenset[str]] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    # Something is installed from the source itself (`-e .`, `./package`).
    local: bool = False
    warnings: tuple[str, ...] = ()

    def __contains__(self, name: str) -> bool:
        return name in self.extras


def requirement(line: str) -> tuple[str, frozenset[str]] | None:
    """Canonical name and extras of a PEP 508 requirement; None when it is none."""
    try:
        parsed = Requirement(line)
    except InvalidRequirement:
        return None
    return canonicalize_name(parsed.name), frozenset(parsed.extras)


def requirements_of(lines: list[object]) -> Requirements:
    """What a manifest's list of PEP 508 strings asks for."""
    found = [parsed for line in lines if isinstance(line, str) and (parsed := requirement(line))]
    return Requirements(extras=dict(found))


def _logical_lines(source: str) -> Iterator[str]:
    """Lines without comments, continued ones joined (pip's requirements file format)."""
    for line in source.replace("\\\r\n", " ").replace("\\\n", " ").splitlines():
        content = re.sub(r"(^|\s)#.*", "", line).strip()
        if content:
            yield content


def requirements_file(snapshot: Snapshot, path: str) -> Requirements:
    """What a requirements file and the files it includes ask for."""
    extras: dict[str, frozenset[str]] = {}
    files: list[str] = []
    warnings: list[str] = []
    local = False
    queue = [path]
    left = _MAX_REQUIREMENTS
    while queue and len(files) < _MAX_INCLUDES:
        file = queue.pop(0)
        if file in files or not snapshot.has(file):
            continue
        files.append(file)
        for line in islice(_logical_lines(text(snapshot, file, limit=MAX_MANIFEST_BYTES)), left):
            left -= 1
            included = _option(line, "-r", "--requirement") or _option(line, "-c", "--constraint")
            if included:
                queue.append(_beside(file, included))
            elif line.startswith("-"):
                local = local or bool(_option(line, "-e", "--editable"))
            elif parsed := requirement(_HASH_OPTION.split(line)[0].strip()):
                extras.setdefault(*parsed)
            elif line.startswith((".", "/")):
                local = True
            elif "://" not in line:
                warnings.append(f"{file}: {line[:80]!r} is not a requirement")
    return Requirements(extras=extras, files=tuple(files), local=local, warnings=tuple(warnings[:_WARNED_LINES]))


def _option(line: str, short: str, long: str) -> str:
    for name in (short, long):
        rest = line.removeprefix(name)
        if rest != line and rest[:1] in (" ", "=", "\t"):
            return rest[1:].strip()
    return ""


def _beside(file: str, included: str) -> str:
    folder = file.rpartition("/")[0]
    return f"{folder}/{included}" if folder else included.removeprefix("./")


def first_line(snapshot: Snapshot, path: str) -> str:
    """The first line that is neither empty nor a comment, at most 64 characters of it."""
    lines = (line.strip() for line in text(snapshot, path).splitlines())
    return next((line[:64] for line in lines if line and not line.startswith("#")), "")
