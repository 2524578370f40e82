"""The values of detection: what was looked at, what a project asked for, and the plan that came of it."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cached_property

SCHEMA = 2


@dataclass(frozen=True)
class Snapshot:
    """Every file's path, relative and with `/`, and the contents of those that matter."""

    paths: tuple[str, ...]
    contents: Mapping[str, bytes] = field(default_factory=dict)
    whole: Snapshot | None = field(default=None, repr=False, compare=False)
    # The folder this is of, relative to the whole.
    place: str = "."

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
        return self._sorted

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self._files)

    @cached_property
    def _by_folder(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for path in self._sorted:
            folder, _, name = path.rpartition("/")
            found.setdefault(folder or ".", []).append(name)
        return found

    def files_in(self, folder: str) -> list[str]:
        """The names of the files that lie directly in a folder, sorted."""
        return self._by_folder.get(folder, [])

    def folders(self) -> list[str]:
        """The folders that hold a file of their own."""
        return list(self._by_folder)

    def under(self, folder: str) -> Snapshot:
        """The snapshot of one folder, with paths relative to it; it remembers the whole that it is a part of."""
        if folder == ".":
            return self
        prefix = folder + "/"
        cut = len(prefix)
        return Snapshot(
            paths=tuple(path[cut:] for path in self.paths if path.startswith(prefix)),
            contents={path[cut:]: data for path, data in self.contents.items() if path.startswith(prefix)},
            whole=self.source,
            place=folder if self.place == "." else f"{self.place}/{folder}",
        )

    def parts(self, folders: Collection[str]) -> dict[str, Snapshot]:
        """Many folders that do not lie in one another, each as a source of its own, in one pass."""
        wanted = frozenset(folders)
        paths: dict[str, list[str]] = {folder: [] for folder in wanted}
        contents: dict[str, dict[str, bytes]] = {folder: {} for folder in wanted}
        for path in self._sorted:
            if folder := _ancestor(path, wanted):
                paths[folder].append(path[len(folder) + 1 :])
                if path in self.contents:
                    contents[folder][path[len(folder) + 1 :]] = self.contents[path]
        return {folder: Snapshot(tuple(paths[folder]), contents[folder]) for folder in wanted}

    @property
    def source(self) -> Snapshot:
        """The whole source that this is a part of; itself where it is that."""
        return self.whole or self


def _ancestor(path: str, folders: frozenset[str]) -> str:
    """The outermost of a path's folders, at most eight deep, that is among these; empty: none."""
    end = -1
    for _ in range(8):
        end = path.find("/", end + 1)
        if end < 0:
            break
        if path[:end] in folders:
            return path[:end]
    return ""


@dataclass(frozen=True)
class Settings:
    """What a project says about its build; an empty field leaves the choice to detection."""

    root_directory: str = ""
    install_command: str = ""
    build_command: str = ""
    start_command: str = ""
    output_directory: str = ""
    provider: str = ""
    package_manager: str = ""
    # A path; "off": a Dockerfile is not used.
    dockerfile: str = ""


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
    # Names of variables it may see; "*": all of the project's.
    secrets: tuple[str, ...] = ("*",)
    # Relative to the source's root; empty: the app's root.
    folder: str = ""


@dataclass(frozen=True, order=True)
class Process:
    """What a release runs: "web", "worker", "release"."""

    name: str
    command: Argv


@dataclass(frozen=True)
class Artifacts:
    """Patterns of what becomes the artifact, relative to the source's root."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


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
    source_digest: str = ""
    # Where packages are installed from, relative to the source's root.
    workspace_root: str = "."
    artifacts: Artifacts = Artifacts()
    port: int = 0
    public_build_env: tuple[str, ...] = ()
    dockerfile: str = ""
    watch_paths: tuple[str, ...] = ()
    schema: int = SCHEMA


@dataclass(frozen=True, order=True)
class Choice:
    """A value of the setting that decides, and what it leads to."""

    value: str
    meaning: str


@dataclass(frozen=True)
class Problem:
    """Why there is no plan: what was seen and what to do, for the user. `field` is the setting that decides it."""

    message: str
    field: str = ""
    choices: tuple[Choice, ...] = ()


@dataclass(frozen=True, order=True)
class Package:
    """An app of a repository that holds several."""

    root: str
    name: str
    provider: str
    framework: str
    mode: Mode


@dataclass(frozen=True)
class Detection:
    """The answer: a plan or a problem, and the apps there are to choose from."""

    outcome: Plan | Problem
    packages: tuple[Package, ...] = ()


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
    # The choices behind `blocked` or `missing`, and the setting that takes one.
    decided_by: str = ""
    choices: tuple[Choice, ...] = ()
    # Where packages are installed from, relative to the source's root; empty: the app's own folder.
    workspace_root: str = ""
    # Processes besides web.
    others: tuple[Process, ...] = ()
    port: int = 0
    public_build_env: tuple[str, ...] = ()
    # A package that is installed beside the app's own, and what the build step's environment holds besides.
    beside: str = ""
    build_env: Mapping[str, str] = field(default_factory=dict)
    # Folders whose contents the running app does not need.
    exclude: tuple[str, ...] = ()
    watch_paths: tuple[str, ...] = ()


def folder_of(text: str) -> str | None:
    """A user's folder, normalised ("." is the root); None: it leads out of the source."""
    folder = posixpath.normpath(text.strip().replace("\\", "/").strip("/") or ".")
    if text.strip().startswith("/") and folder != ".":
        return None
    return None if folder.split("/")[0] == ".." or "\0" in folder else folder


def plan_json(plan: Plan) -> str:
    """The canonical form: sorted keys, two spaces, a final newline; equal plans give equal bytes."""
    return json.dumps(plan_document(plan), sort_keys=True, indent=2, ensure_ascii=False) + "\n"


def plan_document(plan: Plan) -> dict[str, object]:
    """The plan as published: docs/adr/0010-the-plan-s-schema.md names every key."""
    document = asdict(plan)
    document["processes"] = {process.name: list(process.command) for process in plan.processes}
    document["healthcheck"] = document.pop("health_path")
    return document
