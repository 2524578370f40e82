"""Rust: Cargo packages and workspaces (https://doc.rust-lang.org/cargo/reference/manifest.html)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from shipoff.detector.domain import Candidate, Choice, Evidence, Mode, PackageManager, RuntimeVersion, Settings, Snapshot, Step
from shipoff.detector.formats import strings, table
from shipoff.detector.manifests import Table, first_line, list_at, table_at, text_at, toml_table
from shipoff.detector.versions import version

_FRAMEWORKS = ("axum", "actix-web", "rocket", "warp", "poem", "salvo", "tide")
_ROOT = ".shipoff"
_FRAMEWORK, _PROGRAM = 88, 72


@dataclass(frozen=True)
class _Program:
    name: str
    folder: str
    manifest: Table


def rust(snapshot: Snapshot, _settings: Settings) -> Candidate | None:
    """The package's program; of a workspace, the only one its members have."""
    if not snapshot.has("Cargo.toml"):
        return None
    reading = toml_table(snapshot, "Cargo.toml")
    if reading.unreadable:
        return Candidate("rust", _PROGRAM, Mode.SERVER, blocked=f"{reading.unreadable}. Mend it and deploy again.")
    programs = _programs(snapshot, ".", reading.table)
    for folder in () if programs else workspace_folders(snapshot):
        programs += _programs(snapshot, folder, toml_table(snapshot, f"{folder}/Cargo.toml").table)
    chosen = _chosen(programs)
    dependencies = {*table_at(chosen.manifest if chosen else reading.table, "dependencies")}
    framework = next((name for name in _FRAMEWORKS if name in dependencies), "")
    # A workspace has one, in its root.
    lock = snapshot.first("Cargo.lock") or snapshot.source.first("Cargo.lock")
    return Candidate(
        "rust",
        _FRAMEWORK if framework else _PROGRAM,
        Mode.SERVER,
        framework=framework,
        package_manager=PackageManager("cargo", "", lock, frozen=bool(lock)),
        runtimes=_runtimes(snapshot, chosen.manifest if chosen else reading.table),
        steps=(_build(chosen, lock),) if chosen else (),
        web=(f"{_ROOT}/bin/{chosen.name}",) if chosen else (),
        evidence=(Evidence("Cargo.toml", "", f"compiled by Cargo to the program {chosen.name}"),) if chosen else (),
        missing="" if chosen else _missing(programs),
        decided_by="" if chosen else "start_command",
        choices=() if chosen else tuple(Choice(f"{_ROOT}/bin/{item.name}", f"of {item.folder}") for item in programs),
        warnings=() if lock else ("there is no Cargo.lock: run `cargo generate-lockfile` and add it",),
    )


def _missing(programs: list[_Program]) -> str:
    if not programs:
        return "Cargo.toml was seen, but no src/main.rs and no [[bin]]. Set the root directory to a package with one."
    names = ", ".join(program.name for program in programs[:6])
    return f"Cargo.toml was seen with several programs: {names}. Name one as package.default-run, or set the root directory."


def _chosen(programs: list[_Program]) -> _Program | None:
    """The only one, the package's `default-run`, the one named like its package, else the first of a single package."""
    for program in programs:
        if program.name == text_at(program.manifest, "package", "default-run"):
            return program
    for program in programs:
        if program.name == text_at(program.manifest, "package", "name") and len({item.folder for item in programs}) == 1:
            return program
    return programs[0] if len(programs) == 1 else None


def _programs(snapshot: Snapshot, folder: str, manifest: Table) -> list[_Program]:
    """[[bin]] entries, src/main.rs, and the files of src/bin."""
    prefix = "" if folder == "." else f"{folder}/"
    package = text_at(manifest, "package", "name")
    if not package:
        return []
    names = [text_at(table(item), "name") for item in list_at(manifest, "bin")]
    if not any(names) and snapshot.has(f"{prefix}src/main.rs"):
        names.append(package)
    for path in snapshot.under(f"{prefix}src/bin").names() if snapshot.has_folder(f"{prefix}src/bin") else []:
        parts = PurePosixPath(path)
        if parts.suffix == ".rs" and len(parts.parts) == 1:
            names.append(parts.stem)
    return [_Program(name, folder, manifest) for name in sorted({name for name in names if name})]


def _build(program: _Program, lock: str) -> Step:
    locked = ("--locked",) if lock else ()
    command = ("cargo", "install", "--path", program.folder, "--root", _ROOT, "--bin", program.name, "--force", *locked)
    return Step("build", (command,), caches=("cargo", "cargo-target"))


def workspace_folders(snapshot: Snapshot) -> list[str]:
    """The folders of a workspace's members, those it excludes left out."""
    from shipoff.detector.workspaces import matching

    workspace = table_at(toml_table(snapshot, "Cargo.toml").table, "workspace")
    excluded = set(strings(workspace.get("exclude")))
    return [folder for folder in matching(snapshot, strings(workspace.get("members")), "Cargo.toml") if folder not in excluded]


def _runtimes(snapshot: Snapshot, manifest: Table) -> tuple[RuntimeVersion, ...]:
    if asked := version(snapshot, "rust"):
        return (asked,)
    if channel := text_at(toml_table(snapshot, "rust-toolchain.toml").table, "toolchain", "channel"):
        return (RuntimeVersion("rust", channel[:64], "rust-toolchain.toml: toolchain.channel"),)
    if line := first_line(snapshot, "rust-toolchain"):
        return (RuntimeVersion("rust", line, "rust-toolchain"),)
    least = text_at(manifest, "package", "rust-version")
    return (RuntimeVersion("rust", least[:64], "Cargo.toml: package.rust-version"),) if least else ()
