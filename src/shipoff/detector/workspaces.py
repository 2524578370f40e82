"""Workspaces: a folder that gathers packages, of npm, pnpm, yarn, bun, Turborepo, Nx, uv, Cargo and Go."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from shipoff.detector.domain import Snapshot, folder_of
from shipoff.detector.formats import strings, yaml_table
from shipoff.detector.manifests import Table, json_table, table_at, text_at

MOST_MEMBERS = 200
_DEPENDENCY_TABLES = ("dependencies", "devDependencies", "optionalDependencies", "peerDependencies")
_SKIPPED = frozenset({"node_modules", ".venv", "vendor", "target"})


@dataclass(frozen=True)
class NodeWorkspace:
    """`root` relative to the source's root; members by folder relative to `root`, with their package.json."""

    root: str
    snapshot: Snapshot
    package: Table
    members: Mapping[str, Table]

    @property
    def folders(self) -> dict[str, str]:
        """Package name → folder."""
        return {text_at(package, "name"): folder for folder, package in self.members.items() if text_at(package, "name")}

    def closure(self, folder: str) -> list[str]:
        """The member folders that this one needs, each after what it needs itself; without itself."""
        folders = self.folders
        ordered: dict[str, None] = {}
        seen: set[str] = {folder}
        waiting: list[tuple[str, Iterator[str]]] = [(folder, iter(self._needs(folder, folders)))]
        while waiting:
            current, needs = waiting[-1]
            following = next((need for need in needs if need not in seen), None)
            if following is None:
                ordered.setdefault(current)
                waiting.pop()
            else:
                seen.add(following)
                waiting.append((following, iter(self._needs(following, folders))))
        return [member for member in ordered if member != folder]

    def _needs(self, folder: str, folders: Mapping[str, str]) -> list[str]:
        package = self.members.get(folder, {})
        names = {str(name) for kind in _DEPENDENCY_TABLES for name in table_at(package, kind)}
        return sorted(folders[name] for name in names if name in folders)


def node_patterns(snapshot: Snapshot) -> list[str]:
    """What package.json, pnpm-workspace.yaml or lerna.json gather, as patterns of folders."""
    package = json_table(snapshot, "package.json").table
    declared = package.get("workspaces")
    patterns = strings(declared.get("packages") if isinstance(declared, dict) else declared)
    if snapshot.has("pnpm-workspace.yaml"):
        patterns += strings(yaml_table(snapshot, "pnpm-workspace.yaml").table.get("packages"))
    if not patterns and snapshot.has("lerna.json"):
        patterns = strings(json_table(snapshot, "lerna.json").table.get("packages"))
    return patterns


def node_workspace(snapshot: Snapshot, root: str = ".") -> NodeWorkspace | None:
    """The workspace that this folder is the root of."""
    patterns = node_patterns(snapshot)
    if not patterns:
        return None
    members = {
        folder: json_table(snapshot, f"{folder}/package.json").table for folder in matching(snapshot, patterns, "package.json")
    }
    return NodeWorkspace(root, snapshot, json_table(snapshot, "package.json").table, members)


def enclosing(app: Snapshot) -> NodeWorkspace | None:
    """The workspace that has this folder of a source as a member; None for the source's root itself."""
    place = app.place
    while place != ".":
        above = posixpath.dirname(place) or "."
        if not {"package.json", "pnpm-workspace.yaml", "lerna.json"} & set(app.source.files_in(above)):
            place = above
            continue
        workspace = node_workspace(app.source.under(above), above)
        if workspace and posixpath.relpath(app.place, above) in workspace.members:
            return workspace
        place = above
    return None


def matching(snapshot: Snapshot, patterns: list[str], manifest: str) -> list[str]:
    """The folders that hold the manifest and match: `packages/*`, `apps/**`, `!packages/old`; the last match decides."""
    rules = [(pattern.startswith("!"), _expression(pattern.removeprefix("!"))) for pattern in patterns[:50]]
    found = []
    for folder in snapshot.folders():
        if folder == "." or folder.count("/") > 5 or manifest not in snapshot.files_in(folder):
            continue
        if _SKIPPED & set(folder.split("/")):
            continue
        verdicts = [not excluded for excluded, rule in rules if rule and rule.fullmatch(folder)]
        if verdicts and verdicts[-1]:
            found.append(folder)
    return sorted(found)[:MOST_MEMBERS]


@lru_cache(maxsize=256)
def _expression(pattern: str) -> re.Pattern[str] | None:
    """A glob of folders as a regular expression; None for one that leads out of the source or has too many wildcards."""
    folder = folder_of(pattern)
    if folder is None or folder == "." or len(folder) > 200 or folder.count("*") > 6:
        return None
    parts = ["(?:[^/]+/)*[^/]+" if part == "**" else _segment(part) for part in folder.split("/")]
    return re.compile("/".join(parts))


def _segment(part: str) -> str:
    alternatives = re.fullmatch(r"\{([\w,.-]+)\}", part)
    if alternatives:
        return "(?:" + "|".join(re.escape(name) for name in alternatives[1].split(",")) + ")"
    return "[^/]*".join(re.escape(piece) for piece in re.split(r"\*+", part))
