"""Python: which file says what to install, with which tool, into the relocatable environment `.venv`."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field, replace

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from shipoff.detector import manifests
from shipoff.detector.domain import Argv, Choice, Evidence, PackageManager, RuntimeVersion, Snapshot
from shipoff.detector.manifests import Requirements, Table
from shipoff.detector.providers.python_pipenv import pipfile_requirements
from shipoff.detector.providers.python_poetry import pep440, poetry_requirements
from shipoff.detector.versions import version
from shipoff.detector.workspaces import matching

PYTHON = ".venv/bin/python"
# Where the poetry lock's pins are written to for uv.
_EXPORTED = ".venv/requirements.txt"
_VERSION = re.compile(r"(?:python-|cpython[-@])?(\d)(?:\.(\d{1,2}))?(?:\.\d+)?")
_POETRY: Argv = ("uv", "tool", "run", "--from", "poetry>=2,<3", "--with", "poetry-plugin-export", "poetry")
_PDM: Argv = ("uv", "tool", "run", "--from", "pdm>=2,<3", "pdm")
_NOT_EXPORTED = (
    "pdm.lock was written without the strategy inherit_metadata, so pdm cannot export it: pyproject.toml is used instead. "
    "Run `pdm lock --strategy inherit_metadata` and add it"
)
_PIPENV: Argv = ("uv", "tool", "run", "--from", "pipenv", "pipenv")
# What pipenv calls the public index in every Pipfile that it writes.
_PUBLIC = "pypi"
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
    # Several lock files, and what the setting can be.
    conflict: str = ""
    choices: tuple[Choice, ...] = ()
    # Where the packages are installed from, relative to the source's root; empty: the app's own folder.
    workspace_root: str = ""


def pip_install(*arguments: str) -> Argv:
    """uv's pip interface on the app's environment."""
    return ("uv", "pip", "install", "--python", PYTHON, *arguments)


def dependencies(snapshot: Snapshot, wanted: str = "") -> Dependencies:
    """Lock files first, then requirements.txt, then what pyproject.toml or setup.py say; `wanted`: of this tool only."""
    project = manifests.toml_table(snapshot, "pyproject.toml")
    found = _locked(snapshot, project.table, wanted) or _chosen(snapshot, project.table, wanted)
    warnings = (*found.warnings, project.unreadable) if project.unreadable else found.warnings
    return replace(found, warnings=warnings, unreadable=project.unreadable)


def _locked(snapshot: Snapshot, project: Table, wanted: str) -> Dependencies | None:
    """By the lock file; of several, the setting's, else the one whose tool pyproject.toml is written for."""
    there = {tool: file for tool, (file, beside) in _LOCKS.items() if snapshot.has(file) and snapshot.has(beside)}
    workspace = _uv_workspace(snapshot)
    if not there:
        return _uv_member(workspace, project) if workspace and wanted in ("", "uv") else None
    if wanted:
        return _LOCKED[wanted](snapshot, project) if wanted in there else None
    tables = manifests.table_at(project, "tool")
    configured = [tool for tool in there if tool in tables]
    tool = next(iter(there)) if len(there) == 1 else configured[0] if len(configured) == 1 else ""
    if tool:
        return _LOCKED[tool](snapshot, project)
    files = " and ".join(sorted(there.values()))
    found = _LOCKED[next(iter(there))](snapshot, project)
    return replace(
        found,
        conflict=f"{files} are both here. Delete those you do not use, or set the package manager to one of them.",
        choices=tuple(Choice(tool, f"installs from {file}") for tool, file in sorted(there.items())),
    )


def _uv_workspace(snapshot: Snapshot) -> str:
    """The folder, relative to the source's root, whose uv workspace has this one as a member; empty: none."""
    source = snapshot.source
    if snapshot.place == "." or not source.has("uv.lock"):
        return ""
    root = manifests.toml_table(source, "pyproject.toml").table
    members = manifests.list_at(root, "tool", "uv", "workspace", "members")
    patterns = [pattern for pattern in members if isinstance(pattern, str)]
    return "." if snapshot.place in matching(source, patterns, "pyproject.toml") else ""


def _uv_member(root: str, project: Table) -> Dependencies:
    name = manifests.text_at(project, "project", "name")
    return Dependencies(
        file="uv.lock",
        manager=PackageManager("uv", lockfile="uv.lock", frozen=True),
        installed=manifests.requirements_of(manifests.list_at(project, "project", "dependencies")),
        commands=(("uv", "sync", "--frozen", "--no-dev", "--no-editable", "--package", name),),
        evidence=(Evidence("uv.lock", "", f"a member of the workspace in {root}: installed from its lock file"),),
        workspace_root=root,
    )


def _chosen(snapshot: Snapshot, project: Table, wanted: str) -> Dependencies:
    if snapshot.has("requirements.txt") and wanted in ("", "pip"):
        return _requirements(snapshot)
    if snapshot.has("Pipfile") and wanted in ("", "pipenv"):
        return _pipfile(snapshot)
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
    packaged = packaged or bool(manifests.table_at(project, "tool", "uv", "workspace"))
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
        commands=((*_POETRY, *_EXPORT), _from_export()),
        inputs=("poetry.lock", "pyproject.toml"),
        evidence=(Evidence("poetry.lock", "", "dependencies are exported by poetry and installed with uv, exactly as locked"),),
        warnings=(lock.unreadable,) if lock.unreadable else (),
    )


def _pdm_lock(snapshot: Snapshot, project: Table) -> Dependencies:
    lock = manifests.locked_packages(snapshot, "pdm.lock")
    if not lock.unreadable and "inherit_metadata" not in manifests.list_at(lock.table, "metadata", "strategy"):
        return replace(_pyproject(project), manager=PackageManager("pdm", lockfile="pdm.lock"), warnings=(_NOT_EXPORTED,))
    return Dependencies(
        file="pdm.lock",
        manager=PackageManager("pdm", lockfile="pdm.lock", frozen=True),
        installed=_closure(manifests.requirements_of(manifests.list_at(project, "project", "dependencies")), lock.table),
        commands=((*_PDM, "export", "--prod", "--format", "requirements", "--output", _EXPORTED), _from_export()),
        inputs=("pdm.lock", "pyproject.toml"),
        evidence=(Evidence("pdm.lock", "", "exported by pdm and installed with uv, exactly as locked"),),
        warnings=(lock.unreadable,) if lock.unreadable else (),
    )


def _pipfile_lock(snapshot: Snapshot, _project: Table) -> Dependencies:
    lock = manifests.json_table(snapshot, "Pipfile.lock")
    sources = manifests.list_at(lock.table, "_meta", "sources")
    own = any(isinstance(source, dict) and manifests.text_at(source, "name") != _PUBLIC for source in sources)
    # Written out, the public index would come before the one that the operator has set. pipenv writes to standard output only.
    export = shlex.join((*_PIPENV, "requirements", "--hash", *(() if own else ("--exclude-index",))))
    names = [name for name in manifests.table_at(lock.table, "default") if manifests.requirement(name)]
    return Dependencies(
        file="Pipfile.lock",
        manager=PackageManager("pipenv", lockfile="Pipfile.lock", frozen=True),
        installed=manifests.requirements_of(list(names)),
        commands=(("/bin/sh", "-c", f"exec {export} > {_EXPORTED}"), _from_export()),
        inputs=("Pipfile", "Pipfile.lock"),
        evidence=(
            Evidence("Pipfile.lock", "", "dependencies are exported by pipenv and installed with uv, exactly as locked"),
        ),
        warnings=(lock.unreadable,) if lock.unreadable else (),
    )


def _pipfile(snapshot: Snapshot) -> Dependencies:
    requirements, left_out = pipfile_requirements(manifests.toml_table(snapshot, "Pipfile").table)
    unlocked = ("there is no Pipfile.lock: run `pipenv lock` and add it, so that every build installs the same versions",)
    skipped = (f"Pipfile: {', '.join(left_out)} needs a Pipfile.lock, and was left out",) if left_out else ()
    return Dependencies(
        file="Pipfile",
        manager=PackageManager("pipenv"),
        installed=manifests.requirements_of(list(requirements)),
        commands=(pip_install("--", *requirements),) if requirements else (),
        inputs=("Pipfile",),
        evidence=(Evidence("Pipfile", "packages", "dependencies are installed from it"),),
        warnings=(*unlocked, *skipped),
    )


def _from_export() -> Argv:
    return pip_install("--requirement", _EXPORTED)


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


# In order of preference where nothing else decides: lock file, and what has to be beside it.
_LOCKS = {
    "uv": ("uv.lock", "pyproject.toml"),
    "poetry": ("poetry.lock", "pyproject.toml"),
    "pdm": ("pdm.lock", "pyproject.toml"),
    "pipenv": ("Pipfile.lock", "Pipfile"),
}
_LOCKED = {"uv": _uv_lock, "poetry": _poetry_lock, "pdm": _pdm_lock, "pipenv": _pipfile_lock}


def python_version(snapshot: Snapshot) -> tuple[RuntimeVersion | None, str]:
    """What asks for a version of Python, and how to ask uv for it ("3.12", ">=3.11"; "python3": any)."""
    asked = version(snapshot, "python", _VERSION)
    if asked and (match := _VERSION.fullmatch(asked.requested)):
        # A patch release is rarely there, and rarely meant: the newest of that minor version is taken.
        return asked, ".".join(part for part in match.groups() if part)
    if found := _pipfile_version(snapshot):
        return found
    project = manifests.toml_table(snapshot, "pyproject.toml").table
    for keys in (("project", "requires-python"), ("tool", "poetry", "dependencies", "python")):
        written = manifests.text_at(project, *keys)
        if specifier := _specifier(written):
            return RuntimeVersion("python", written, f"pyproject.toml: {'.'.join(keys)}"), specifier
    return None, "python3"


def _pipfile_version(snapshot: Snapshot) -> tuple[RuntimeVersion, str] | None:
    requires = manifests.table_at(manifests.toml_table(snapshot, "Pipfile").table, "requires")
    for key in ("python_full_version", "python_version"):
        written = manifests.text_at(requires, key)
        if match := _VERSION.fullmatch(written):
            return RuntimeVersion("python", written, f"Pipfile: requires.{key}"), ".".join(
                part for part in match.groups() if part
            )
    return None


def _specifier(written: str) -> str:
    """A PEP 440 specifier set, poetry's words translated; empty: none."""
    try:
        return str(SpecifierSet(pep440(written)))
    except InvalidSpecifier:
        return ""
