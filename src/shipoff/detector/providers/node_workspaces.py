"""Node: an app that is a member of a workspace is installed from the root, and what it needs is built before it."""

from __future__ import annotations

import posixpath
import shlex
from dataclasses import replace

from shipoff.detector.domain import Argv, Candidate, Evidence, Step
from shipoff.detector.manifests import json_table, table_at, text_at
from shipoff.detector.providers.node_packages import Manager
from shipoff.detector.workspaces import NodeWorkspace

_BIN = "node_modules/.bin"
# What was installed beside the packages lies where they do: in the root.
_BESIDE = (".bun/", ".shipoff/node/")


def in_workspace(candidate: Candidate, workspace: NodeWorkspace, place: str, tool: Manager) -> Candidate:
    """The candidate of the member at `place`, relative to the source's root, with its steps put where they belong."""
    folder = posixpath.relpath(place, workspace.root)
    closure = workspace.closure(folder)
    up = posixpath.relpath(workspace.root, place)
    installs = tuple(replace(step, folder=workspace.root, inputs=()) for step in candidate.steps if step.name == "install")
    builds = tuple(step for step in candidate.steps if step.name == "build")
    scripted = bool(text_at(workspace.members.get(folder, {}), "scripts", "build"))
    runner = _runner(workspace, folder) if scripted else ()
    if runner:
        steps = (*installs, Step("build", (runner,), env=tool.env, caches=tool.caches, folder=workspace.root))
    else:
        built = tuple(replace(step, commands=tuple(_anywhere(argv, up) for argv in step.commands)) for step in builds)
        steps = (*installs, *_needed(workspace, closure, tool), *built)
    watched = {posixpath.normpath(f"{workspace.root}/{member}") + "/**" for member in (folder, *closure)}
    manifests = {posixpath.normpath(f"{workspace.root}/{file}") for file in ("package.json", tool.manager.lockfile) if file}
    found = Evidence("package.json", "workspaces", f"a member of the workspace in {workspace.root}: installed from there")
    return replace(
        candidate,
        steps=steps,
        workspace_root=workspace.root,
        web=_anywhere(candidate.web, up) if candidate.web else (),
        programs=frozenset(),
        programs_folder=f"{_BIN}:{up}/{_BIN}",
        evidence=(*candidate.evidence, found),
        watch_paths=tuple(sorted(watched | manifests)),
    )


def _runner(workspace: NodeWorkspace, folder: str) -> Argv:
    """Turborepo's or Nx's own command: they know what the build needs. Empty: neither is there."""
    name = text_at(workspace.members.get(folder, {}), "name")
    root = {str(key) for kind in ("dependencies", "devDependencies") for key in table_at(workspace.package, kind)}
    if not name:
        return ()
    turbo = json_table(workspace.snapshot, "turbo.json").table
    if "turbo" in root and ("build" in table_at(turbo, "tasks") or "build" in table_at(turbo, "pipeline")):
        return (f"{_BIN}/turbo", "run", "build", f"--filter={name}")
    if "nx" in root and workspace.snapshot.has("nx.json"):
        return (f"{_BIN}/nx", "run", f"{name}:build")
    return ()


def _needed(workspace: NodeWorkspace, closure: list[str], tool: Manager) -> tuple[Step, ...]:
    """A step for each package that the app needs and that has something to build, in order."""
    return tuple(
        Step(
            f"build {member}",
            ((*tool.program, "run", "build"),),
            env=tool.env,
            caches=tool.caches,
            folder=posixpath.normpath(f"{workspace.root}/{member}"),
        )
        for member in closure
        if text_at(workspace.members[member], "scripts", "build")
    )


def _anywhere(argv: Argv, up: str) -> Argv:
    """A package's program may lie in the member's folder or in the root's: which is known only after the install."""
    if argv[0].startswith(_BESIDE):
        return (f"{up}/{argv[0]}", *argv[1:])
    if not argv[0].startswith(f"{_BIN}/"):
        return tuple(word.replace("$PWD/.bun/", f"$PWD/{up}/.bun/") for word in argv)
    words = " ".join(
        f'"{word}"' if word == "$PORT" else shlex.quote(word) for word in (argv[0].removeprefix(f"{_BIN}/"), *argv[1:])
    )
    return ("/bin/sh", "-c", f'PATH="$PWD/{_BIN}:$PWD/{up}/{_BIN}:$PATH"; export PATH; exec {words}')
