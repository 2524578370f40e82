"""Python: which file says what to install, with which tool, into the relocatable environment `.venv`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from shipoff.detector import manifests
from shipoff.detector.domain import Argv, Evidence, PackageManager, RuntimeVersion, Snapshot
from shipoff.detector.manifests import Requirements, Table
from shipoff.detector.providers.python_poetry import pep440, poetry_requirements

PYTHON = ".venv/bin/python"
# Where the poetry lock's pins are written to for uv.
_EXPORTED = ".venv/requirements.txt"
_VERSION = re.compile(r"(?:python-|cpython[-@])?(\d)(?:\.(\d{1,2}))?(?:\.\d+)?")
_POETRY: Argv = ("uv", "tool", "run", "--from", "poetry>=2,<3", "--with", "poetry-plugin-export", "poetry")
_EXPORT: Argv = ("export", "--no-interaction", "--format", "requirements.txt", "--output", _EXPORTED)


@dataclass(frozen=True)
class Dependencies:
    """What to install and how. `file` is empty when the source names no dependencies."""

    file: str = ""
    manager: PackageManager = field(default_factory=PackageManager)
    # Everything that will be there, as far as the files tell.
    installed: Requirements = field(default_factory=Requirements)
    # Commands that fill an existing `.venv`.
    commands: tuple[Argv, ...] = ()
    # Empty: the whole source.
    inputs: tuple[str, ...] = ()
    caches: tuple[str, ...] = ("uv",)
    evidence: tuple[Evidence, ...] = ()
    warnings: tuple[str, ...] = ()
    # What is wrong with pyproject.toml.
    unreadable: str = ""


def pip_install(*arguments: str) -> Argv:
    """uv's pip interface on the app's environment."""
    return ("uv", "pip", "install", "--python", PYTHON, *arguments)


def dependencies(snapshot: Snapshot) -> Dependencies:
    """Lock files first, then requirements.txt, then what pyproject.toml or setup.py say."""
    project = manifests.toml_table(snapshot, "pyproject.toml")
    found = _chosen(snapshot, project.table)
    warnings = (*found.warnings, project.unreadable) if project.unreadable else found.warnings
    return replace(found, warnings=warnings, unreadable=project.unreadable)


def _chosen(snapshot: Snapshot, project: Table) -> Dependencies:
    if snapshot.has("uv.lock") and snapshot.has("pyproject.toml"):
        return _uv_lock(snapshot, project)
    if snapshot.has("poetry.lock") and snapshot.has("pyproject.toml"):
        return _poetry_lock(snapshot, project)
    if snapshot.has("requirements.txt"):
        return _requirements(snapshot)
    if manifests.list_at(project, "project", "dependencies"):
        return _pyproject(project)
    if manifests.table_at(project, "tool", "poetry", "dependencies"):
        return _poetry_unlocked(project)
    if snapshot.has("setup.py"):
        return _setup()
    return _pyproject(project) if manifests.table_at(project, "project") else Dependencies()


def _uv_lock(snapshot: Snapshot, project: Table) -> Dependencies:
    lock = manifests.locked_packages(snapshot, "uv.lock")
    packaged = bool(manifests.table_at(project, "build-system"))
    warnings = (lock.unreadable,) if lock.unreadable else ()
    if snapshot.has("poetry.lock"):
        warnings = (*warnings, "both uv.lock and poetry.lock are here: uv.lock is used")
    return Dependencies(
        file="uv.lock",
        manager=PackageManager("uv", lockfile="uv.lock", frozen=True),
        installed=_closure(manifests.requirements_of(manifests.list_at(project, "project", "dependencies")), lock.table),
        commands=(("uv", "sync", "--frozen", "--no-dev", "--no-editable"),),
        inputs=() if packaged else ("pyproject.toml", "uv.lock"),
        evidence=(Evidence("uv.lock", "", "dependencies are installed with uv, exactly as locked"),),
        warnings=warnings,
    )


def _poetry_lock(snapshot: Snapshot, project: Table) -> Dependencies:
    lock = manifests.locked_packages(snapshot, "poetry.lock")
    return Dependencies(
        file="poetry.lock",
        manager=PackageManager("poetry", lockfile="poetry.lock", frozen=True),
        installed=_closure(_poetry_requirements(project), lock.table),
        commands=((*_POETRY, *_EXPORT), pip_install("--requirement", _EXPORTED)),
        inputs=("poetry.lock", "pyproject.toml"),
        evidence=(Evidence("poetry.lock", "", "dependencies are exported by poetry and installed with uv, exactly as locked"),),
        warnings=(lock.unreadable,) if lock.unreadable else (),
    )


def _poetry_unlocked(project: Table) -> Dependencies:
    requirements, left_out = poetry_requirements(project)
    unlocked = "there is no poetry.lock: run `poetry lock` and add it, so that every build installs the same versions"
    warnings: tuple[str, ...] = (unlocked,)
    if left_out:
        warnings = (
            unlocked,
            f"pyproject.toml: {', '.join(left_out)} needs a poetry.lock, and was left out",
        )
    return Dependencies(
        file="pyproject.toml",
        manager=PackageManager("poetry"),
        installed=_poetry_requirements(project),
        commands=(pip_install("--", *requirements),) if requirements else (),
        inputs=("pyproject.toml",),
        evidence=(Evidence("pyproject.toml", "tool.poetry.dependencies", "dependencies are installed from it"),),
        warnings=warnings,
    )


def _requirements(snapshot: Snapshot) -> Dependencies:
    found = manifests.requirements_file(snapshot, "requirements.txt")
    return Dependencies(
        file="requirements.txt",
        manager=PackageManager("pip", lockfile="requirements.txt"),
        installed=found,
        commands=(pip_install("--requirement", "requirements.txt"),),
        inputs=() if found.local else tuple(sorted(found.files)),
        evidence=(Evidence("requirements.txt", "", "dependencies are installed from it"),),
        warnings=found.warnings,
    )


def _pyproject(project: Table) -> Dependencies:
    return Dependencies(
        file="pyproject.toml",
        manager=PackageManager("uv"),
        installed=manifests.requirements_of(manifests.list_at(project, "project", "dependencies")),
        commands=(pip_install("--requirement", "pyproject.toml"),),
        inputs=("pyproject.toml",),
        evidence=(Evidence("pyproject.toml", "project.dependencies", "dependencies are installed from it"),),
        warnings=("there is no lock file: run `uv lock` and add uv.lock, so that every build installs the same versions",),
    )


def _setup() -> Dependencies:
    return Dependencies(
        file="setup.py",
        manager=PackageManager("pip"),
        commands=(pip_install("."),),
        evidence=(Evidence("setup.py", "", "the project is installed with its dependencies"),),
    )


def _poetry_requirements(project: Table) -> Requirements:
    """Poetry 1 keeps dependencies in its own table, poetry 2 in the standard one."""
    standard = manifests.requirements_of(manifests.list_at(project, "project", "dependencies"))
    extras = dict(standard.extras)
    for name, specification in manifests.table_at(project, "tool", "poetry", "dependencies").items():
        named = manifests.list_at(specification, "extras") if isinstance(specification, dict) else []
        parsed = manifests.requirement(name)
        if parsed and name != "python":
            extras.setdefault(parsed[0], frozenset(extra for extra in named if isinstance(extra, str)))
    return Requirements(extras=extras)


def _closure(direct: Requirements, lock: Table) -> Requirements:
    """The direct requirements and everything that they need, by the lock file's graph (uv and poetry)."""
    graph: dict[str, set[str]] = {}
    for package in manifests.list_at(lock, "package"):
        if isinstance(package, dict) and isinstance(package.get("name"), str):
            graph.setdefault(package["name"], set()).update(_needed_by(package))
    extras = dict(direct.extras)
    queue = list(extras)
    while queue:
        for name in sorted(graph.get(queue.pop(), ())):
            if name not in extras:
                extras[name] = frozenset()
                queue.append(name)
    return replace(direct, extras=extras)


def _needed_by(package: Table) -> set[str]:
    needed = package.get("dependencies")
    if isinstance(needed, dict):
        return {parsed[0] for name in needed if (parsed := manifests.requirement(name))}
    entries = needed if isinstance(needed, list) else []
    return {entry["name"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("name"), str)}


def python_version(snapshot: Snapshot) -> tuple[RuntimeVersion | None, str]:
    """What asks for a version of Python, and how to ask uv for it ("3.12", ">=3.11"; "python3": any)."""
    for file in (".python-version", "runtime.txt"):
        line = manifests.first_line(snapshot, file)
        if match := _VERSION.fullmatch(line):
            # A patch release is rarely there, and rarely meant: the newest of that minor version is taken.
            wanted = ".".join(part for part in match.groups() if part)
            return RuntimeVersion("python", line, file), wanted
    project = manifests.toml_table(snapshot, "pyproject.toml").table
    for keys in (("project", "requires-python"), ("tool", "poetry", "dependencies", "python")):
        written = manifests.text_at(project, *keys)
        if specifier := _specifier(written):
            return RuntimeVersion("python", written, f"pyproject.toml: {'.'.join(keys)}"), specifier
    return None, "python3"


def _specifier(written: str) -> str:
    """A PEP 440 specifier set, poetry's words translated; empty: none."""
    try:
        return str(SpecifierSet(pep440(written)))
    except InvalidSpecifier:
        return ""
