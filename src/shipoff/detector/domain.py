"""The values of detection: what was looked at, what a project asked for, and the plan that came of it."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cached_property

SCHEMA = 1


@dataclass(frozen=True)
class Snapshot:
    """Every file's path, relative and with `/`, and the contents of those that matter."""

    paths: tuple[str, ...]
    contents: Mapping[str, bytes] = field(default_factory=dict)

    @cached_property
    def _files(self) -> frozenset[str]:
        return frozenset(self.paths) | frozenset(self.contents)

    def has(self, path: str) -> bool:
        """Whether the file exists."""
        return path in self._files

    def first(self, *paths: str) -> str:
        """The first of these files that exists; empty: none does."""
        return next((path for path in paths if path in self._files), "")

    def has_folder(self, folder: str) -> bool:
        """Whether any file lies in this folder."""
        prefix = folder.rstrip("/") + "/"
        return folder == "." or any(path.startswith(prefix) for path in self._files)

    def names(self) -> list[str]:
        """All paths, sorted."""
        return sorted(self._files)

    def under(self, folder: str) -> Snapshot:
        """The snapshot of one folder, with paths relative to it."""
        if folder == ".":
            return self
        prefix = folder + "/"
        cut = len(prefix)
        return Snapshot(
            paths=tuple(path[cut:] for path in self.paths if path.startswith(prefix)),
            contents={path[cut:]: data for path, data in self.contents.items() if path.startswith(prefix)},
        )


@dataclass(frozen=True)
class Settings:
    """What a project says about its build; an empty field leaves the choice to detection."""

    root_directory: str = ""
    install_command: str = ""
    build_command: str = ""
    start_command: str = ""
    output_directory: str = ""


class Mode(StrEnum):
    """What a build leaves: files, or a process."""

    STATIC = "static"
    SPA = "spa"
    SSR = "ssr"
    SERVER = "server"
    WORKER = "worker"

    @property
    def files_only(self) -> bool:
        """Whether the edge serves it without a process."""
        return self in (Mode.STATIC, Mode.SPA)


Argv = tuple[str, ...]


@dataclass(frozen=True, order=True)
class Evidence:
    """A fact and what was concluded from it."""

    file: str
    key: str
    rule: str


@dataclass(frozen=True, order=True)
class Alternative:
    """A candidate that was not chosen."""

    provider: str
    framework: str
    why_not: str


@dataclass(frozen=True)
class PackageManager:
    """`frozen`: the lock file must not change during the install."""

    name: str = ""
    version: str = ""
    lockfile: str = ""
    frozen: bool = False


@dataclass(frozen=True, order=True)
class RuntimeVersion:
    """A language's version as a file asks for it; `resolved` is the builder's to fill in."""

    name: str
    requested: str
    source: str
    resolved: str = ""


@dataclass(frozen=True)
class Step:
    """Commands to run in order in the app's root. Empty `inputs`: the whole source decides the result."""

    name: str
    commands: tuple[Argv, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    caches: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    network: bool = True


@dataclass(frozen=True, order=True)
class Process:
    """What a release runs: "web", "worker", "release"."""

    name: str
    command: Argv


@dataclass(frozen=True)
class Plan:
    """How to build and run a source. Lists are sorted where their order has no meaning."""

    provider: str
    framework: str
    mode: Mode
    app_root: str = "."
    package_manager: PackageManager = PackageManager()
    runtimes: tuple[RuntimeVersion, ...] = ()
    steps: tuple[Step, ...] = ()
    output_dir: str = ""
    processes: tuple[Process, ...] = ()
    health_path: str = ""
    evidence: tuple[Evidence, ...] = ()
    confidence: float = 0.0
    alternatives: tuple[Alternative, ...] = ()
    warnings: tuple[str, ...] = ()
    schema: int = SCHEMA


@dataclass(frozen=True)
class Problem:
    """Why there is no plan: what was seen and what to do, for the user."""

    message: str


@dataclass(frozen=True)
class Candidate:
    """What one provider would do with the source, before settings and Procfile have their say."""

    provider: str
    # 0 to 100: a framework's own object or configuration is above a script, a script above a lone file.
    score: int
    mode: Mode
    framework: str = ""
    package_manager: PackageManager = PackageManager()
    runtimes: tuple[RuntimeVersion, ...] = ()
    steps: tuple[Step, ...] = ()
    output_dir: str = ""
    web: Argv = ()
    evidence: tuple[Evidence, ...] = ()
    warnings: tuple[str, ...] = ()
    # The folder of installed programs, and those known to be in it: a user's `gunicorn …` means the app's own.
    programs_folder: str = ""
    programs: frozenset[str] = frozenset()
    # Of the install step's commands those that a project's own install command replaces.
    installs: tuple[Argv, ...] = ()
    # What is missing to start the app, for the user; a start command or an output directory of the project's own helps too.
    missing: str = ""
    # What keeps packages from being installed, for the user; an install command of the project's own helps too.
    blocked: str = ""


def folder_of(text: str) -> str | None:
    """A user's folder, normalised ("." is the root); None: it leads out of the source."""
    folder = posixpath.normpath(text.strip().replace("\\", "/").strip("/") or ".")
    if text.strip().startswith("/") and folder != ".":
        return None
    return None if folder.split("/")[0] == ".." or "\0" in folder else folder


def plan_json(plan: Plan) -> str:
    """The canonical form: sorted keys, two spaces, a final newline; equal plans give equal bytes."""
    return json.dumps(asdict(plan), sort_keys=True, indent=2, ensure_ascii=False) + "\n"
