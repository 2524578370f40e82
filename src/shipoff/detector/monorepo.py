"""The apps of a repository that holds several: members of its workspaces that something can be started or served of."""

from __future__ import annotations

from collections.abc import Callable

from shipoff.detector.domain import Candidate, Package, Snapshot
from shipoff.detector.formats import strings
from shipoff.detector.manifests import json_table, table_at, text, text_at, toml_table
from shipoff.detector.providers.go import workspace_folders as go_folders
from shipoff.detector.providers.rust import workspace_folders as cargo_folders
from shipoff.detector.workspaces import MOST_MEMBERS, matching, node_workspace


def packages(snapshot: Snapshot, describe: Callable[[Snapshot], Candidate | None]) -> tuple[Package, ...]:
    """The deployable members, by folder; none where the source's root is no workspace."""
    folders = _members(snapshot)
    outermost = [folder for folder in folders if not any(folder.startswith(f"{other}/") for other in folders)]
    found = []
    for folder, app in snapshot.parts(outermost[:MOST_MEMBERS]).items():
        candidate = describe(app)
        if candidate:
            found.append(Package(folder, _name(app, folder), candidate.provider, candidate.framework, candidate.mode))
    return tuple(sorted(found))


def _members(snapshot: Snapshot) -> list[str]:
    folders: set[str] = set()
    if workspace := node_workspace(snapshot):
        folders |= set(workspace.members)
    if snapshot.has("nx.json"):
        folders |= set(matching(snapshot, ["apps/**", "packages/**", "libs/**"], "project.json"))
    if snapshot.has("pyproject.toml"):
        declared = table_at(toml_table(snapshot, "pyproject.toml").table, "tool", "uv", "workspace")
        excluded = [f"!{pattern}" for pattern in strings(declared.get("exclude"))]
        folders |= set(matching(snapshot, strings(declared.get("members")) + excluded, "pyproject.toml"))
    if snapshot.has("Cargo.toml"):
        folders |= set(cargo_folders(snapshot))
    if snapshot.has("go.work"):
        used = [folder.removeprefix("./").rstrip("/") for folder in go_folders(text(snapshot, "go.work"))]
        folders |= {folder for folder in used if "go.mod" in snapshot.files_in(folder)}
    return sorted(folders - {"", "."})


def _name(app: Snapshot, folder: str) -> str:
    """The name that the member's own manifest gives it, else its folder's."""
    names = (
        text_at(json_table(app, "package.json").table, "name"),
        text_at(toml_table(app, "pyproject.toml").table, "project", "name") if app.has("pyproject.toml") else "",
        text_at(toml_table(app, "Cargo.toml").table, "package", "name") if app.has("Cargo.toml") else "",
    )
    return next((name for name in names if name), folder.rpartition("/")[2])[:100]
