"""Node: which package manager, in which version, and how it installs.

pnpm, yarn and bun are run through npx, so that a machine needs Node and npm only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from shipoff.detector.domain import Argv, Candidate, Choice, Evidence, PackageManager, Snapshot
from shipoff.detector.manifests import MAX_MANIFEST_BYTES, Table, table_at, text, text_at
from shipoff.detector.versions import version as asked_version

_LOCKFILES = {
    "package-lock.json": "npm",
    "npm-shrinkwrap.json": "npm",
    "pnpm-lock.yaml": "pnpm",
    "yarn.lock": "yarn",
    "bun.lock": "bun",
    "bun.lockb": "bun",
}
_FIELD = re.compile(r"(npm|pnpm|yarn|bun)@(\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?)(?:\+.*)?")
_LOCKFILE_VERSION = re.compile(r"^lockfileVersion:\s*['\"]?(\d+)", re.MULTILINE)
_PNPM_BY_LOCKFILE = {"5": "7", "6": "8"}
_PACKAGES_KEY = re.compile(r"^packages\s*:", re.MULTILINE)
_YARN_1 = "1.22.22"
# A newer release wants to write the lock file anew, which a frozen install refuses.
_YARN_BY_LOCKFILE = {"4": "2", "5": "2", "6": "3", "7": "3", "8": "4.9.1"}
_YARN_METADATA = re.compile(r"^__metadata:\s+version: (\d+)", re.MULTILINE)
_YARN_BERRY = "4"
_EXACT = re.compile(r"\d{1,4}\.\d{1,4}\.\d{1,4}")
MANAGERS = frozenset({"npm", "pnpm", "yarn", "bun"})
_BUN = "1"
_BUN_FOLDER = ".bun/node_modules/.bin"
_INSTALL_SCRIPTS = ("preinstall", "install", "postinstall", "prepare")


@dataclass(frozen=True)
class Manager:
    """How packages are installed and scripts are run."""

    manager: PackageManager
    # What to put before `run <script>`.
    program: Argv
    install: Argv
    env: Mapping[str, str] = field(default_factory=dict)
    caches: tuple[str, ...] = ("npm",)
    inputs: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    warnings: tuple[str, ...] = ()
    # Several lock files, none of them named.
    conflict: str = ""
    choices: tuple[Choice, ...] = ()


def manager(snapshot: Snapshot, package: Table, wanted: str = "") -> Manager:
    """By the setting, else the packageManager field, else the lock file; several of these are a question to the author."""
    locks = [file for file in _LOCKFILES if snapshot.has(file)]
    named = _FIELD.fullmatch(text_at(package, "packageManager"))
    kinds = sorted({_LOCKFILES[file] for file in locks})
    kind, source = _kind(snapshot, package, locks)
    if wanted:
        kind, source = wanted, Evidence("", "settings.package_manager", f"packages are installed with {wanted}")
    lock = next((file for file in locks if _LOCKFILES[file] == kind), "")
    made = _MAKERS[kind](snapshot, lock, named[2] if named and named[1] == kind else _engine(package, kind))
    conflict = "" if named or wanted or len(kinds) < 2 else _conflict(locks)
    warnings = () if lock else (f"there is no lock file: run `{kind} install` and add it, so that every build is the same",)
    return Manager(
        manager=made.manager,
        program=made.program,
        install=made.install,
        env=made.env,
        caches=made.caches,
        inputs=_inputs(snapshot, package, lock),
        evidence=(source,),
        warnings=(*made.warnings, *warnings),
        conflict=conflict,
        choices=tuple(Choice(name, f"installs from {file}") for file, name in _LOCKFILES.items() if conflict and file in locks),
    )


def _kind(snapshot: Snapshot, package: Table, locks: list[str]) -> tuple[str, Evidence]:
    """The package manager and what tells it."""
    named = _FIELD.fullmatch(text_at(package, "packageManager"))
    if named:
        return named[1], Evidence("package.json", "packageManager", f"packages are installed with {named[1]}")
    declared = text_at(package, "devEngines", "packageManager", "name")
    if declared in MANAGERS and (not locks or declared in {_LOCKFILES[file] for file in locks}):
        return declared, Evidence("package.json", "devEngines.packageManager", f"packages are installed with {declared}")
    signs = {**dict.fromkeys(locks), "pnpm-workspace.yaml": "pnpm", ".yarnrc.yml": "yarn", "bunfig.toml": "bun"}
    file = next(iter(locks), "") or snapshot.first(*(sign for sign, kind in signs.items() if kind))
    if file:
        kind = _LOCKFILES.get(file) or signs[file] or "npm"
        kind = sorted({_LOCKFILES[lock] for lock in locks})[0] if locks else kind
        shown = next((lock for lock in locks if _LOCKFILES[lock] == kind), file)
        return kind, Evidence(shown, "", f"packages are installed with {kind}")
    for name in ("pnpm", "yarn", "bun"):
        if text_at(package, "engines", name):
            return name, Evidence("package.json", f"engines.{name}", f"packages are installed with {name}")
    return "npm", Evidence("package.json", "", "packages are installed with npm")


def _engine(package: Table, kind: str) -> str:
    """An exact version that `engines` asks for; a range is left to the lock file."""
    wanted = text_at(package, "engines", kind)
    return wanted if _EXACT.fullmatch(wanted) else ""


def bun_beside(candidate: Candidate, tool: Manager, start: str) -> tuple[Candidate, tuple[Argv, ...]]:
    """Where Bun runs the app it is installed beside it, from npm: the machine needs Node only. The command that does it."""
    words = candidate.web[:1] == ("bun",) or start.split()[:1] in (["bun"], ["bunx"])
    if not words or not candidate.web:
        return candidate, ()
    version = tool.manager.version or _BUN
    install = ("npm", "install", "--prefix", ".bun", "--no-save", "--no-audit", "--no-fund", f"bun@{version}")
    web = (f"{_BUN_FOLDER}/bun", *candidate.web[1:])
    if candidate.web[1:2] == ("run",):
        # The script says `bun` itself.
        path = f'PATH="$PWD/{_BUN_FOLDER}:$PWD/node_modules/.bin:$PATH"; export PATH'
        web = ("/bin/sh", "-c", f"{path}; exec bun {' '.join(candidate.web[1:])}")
    return replace(candidate, web=web), (install,)


def _conflict(locks: list[str]) -> str:
    return (
        f"{' and '.join(sorted(locks))} are both here. Delete those you do not use, "
        'or name the package manager in package.json, such as "packageManager": "npm@10.9.0".'
    )


def _inputs(snapshot: Snapshot, package: Table, lock: str) -> tuple[str, ...]:
    """The files that decide the install; none (the whole source) when the install runs scripts or builds workspaces."""
    if package.get("workspaces") or snapshot.has("pnpm-workspace.yaml"):
        return ()
    if any(name in table_at(package, "scripts") for name in _INSTALL_SCRIPTS):
        return ()
    files = ("package.json", lock, ".npmrc", ".yarnrc", ".yarnrc.yml")
    return tuple(sorted(file for file in files if file and snapshot.has(file)))


def _npm(_snapshot: Snapshot, lock: str, version: str) -> Manager:
    verb = "ci" if lock else "install"
    return Manager(
        PackageManager("npm", version, lock, frozen=bool(lock)),
        program=("npm",),
        # Builds need the development dependencies, whatever NODE_ENV is set to.
        install=("npm", verb, "--include=dev", "--no-audit", "--no-fund"),
    )


def _pnpm(snapshot: Snapshot, lock: str, version: str) -> Manager:
    version = version or _pnpm_version(snapshot)
    program = ("npx", "--yes", f"pnpm@{version}")
    frozen = ("--frozen-lockfile",) if lock else ("--no-frozen-lockfile",)
    return Manager(
        PackageManager("pnpm", version, lock, frozen=bool(lock)),
        program=program,
        install=(*program, "install", *frozen, "--prod=false"),
        # Without a terminal it would rather stop than replace an old node_modules.
        env={"CI": "true"},
        caches=("npm", "pnpm"),
    )


def _pnpm_version(snapshot: Snapshot) -> str:
    """The major version that wrote the lock file (https://pnpm.io/blog lists the formats)."""
    lock = _LOCKFILE_VERSION.search(text(snapshot, "pnpm-lock.yaml", limit=MAX_MANIFEST_BYTES)[:1000])
    workspace = text(snapshot, "pnpm-workspace.yaml")
    # Format 9 is both 9's and 10's; only 10 keeps settings in a workspace file without packages.
    newest = "10" if workspace and not _PACKAGES_KEY.search(workspace) else "9"
    return _PNPM_BY_LOCKFILE.get(lock[1], newest) if lock else newest


def _yarn(snapshot: Snapshot, lock: str, version: str) -> Manager:
    """Yarn 1, or from 2 on `berry`, which writes a `__metadata` entry."""
    lock_version = _YARN_METADATA.search(text(snapshot, "yarn.lock", limit=MAX_MANIFEST_BYTES)[:2000])
    berry = not version.startswith("1.") if version else bool(lock_version) or snapshot.has(".yarnrc.yml")
    if not berry:
        version = version or _YARN_1
        program: Argv = ("npx", "--yes", f"yarn@{version}")
        frozen = ("--frozen-lockfile",) if lock else ()
        install = (*program, "install", *frozen, "--production=false", "--non-interactive")
        return Manager(PackageManager("yarn", version, lock, frozen=bool(lock)), program, install, caches=("npm", "yarn"))
    version = version or _YARN_BY_LOCKFILE.get(lock_version[1] if lock_version else "", _YARN_BERRY)
    program = ("npx", "--yes", f"@yarnpkg/cli-dist@{version}")
    return Manager(
        PackageManager("yarn", version, lock, frozen=bool(lock)),
        program=program,
        install=(*program, "install", "--immutable" if lock else "--no-immutable"),
        # What is shipped must hold its packages: Plug'n'Play leaves them in a cache outside of it.
        env={"YARN_NODE_LINKER": "node-modules", "YARN_ENABLE_TELEMETRY": "0", "YARN_ENABLE_GLOBAL_CACHE": "false"},
        caches=("npm", "yarn"),
    )


def _bun(snapshot: Snapshot, lock: str, version: str) -> Manager:
    asked = asked_version(snapshot, "bun")
    exact = asked.requested if asked and _EXACT.fullmatch(asked.requested) else ""
    version = version or exact or _BUN
    program = ("npx", "--yes", f"bun@{version}")
    return Manager(
        PackageManager("bun", version, lock, frozen=bool(lock)),
        program=program,
        install=(*program, "install", *(("--frozen-lockfile",) if lock else ())),
        caches=("bun", "npm"),
    )


_MAKERS = {"npm": _npm, "pnpm": _pnpm, "yarn": _yarn, "bun": _bun}
