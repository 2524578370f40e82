"""Deno: deno.json and its tasks (https://docs.deno.com/runtime/fundamentals/configuration/)."""

from __future__ import annotations

from shipoff.detector.domain import Argv, Candidate, Evidence, Mode, PackageManager, RuntimeVersion, Settings, Snapshot, Step
from shipoff.detector.formats import jsonc_table
from shipoff.detector.manifests import Table, table_at, text_at
from shipoff.detector.versions import version

_CONFIGURATIONS = ("deno.json", "deno.jsonc")
_ENTRIES = tuple(
    f"{folder}{name}.{kind}"
    for folder in ("", "src/")
    for name in ("main", "server", "app", "mod", "index")
    for kind in ("ts", "js", "tsx")
)
# What the app imports is kept beside it, so that it starts without a network.
_BESIDE: Argv = ("--vendor", "--node-modules-dir=auto")
_TASK, _ENTRY, _LONE = 80, 74, 45
_FRAMEWORKS = {
    "@fresh/core": "fresh",
    "$fresh/": "fresh",
    "@oak/oak": "oak",
    "oak": "oak",
    "hono": "hono",
    "@hono/hono": "hono",
}


def deno(snapshot: Snapshot, _settings: Settings) -> Candidate | None:
    """The start task, else a customary entry file."""
    file = snapshot.first(*_CONFIGURATIONS)
    lock = snapshot.first("deno.lock")
    if not file and not lock:
        return None
    reading = jsonc_table(snapshot, file) if file else None
    if reading and reading.unreadable:
        return Candidate("deno", _ENTRY, Mode.SERVER, blocked=f"{reading.unreadable}. Mend it and deploy again.")
    manifest = reading.table if reading else {}
    entry = snapshot.first(*_ENTRIES)
    starts = bool(_task(manifest, "start"))
    imports = set(table_at(manifest, "imports"))
    framework = next((name for key, name in _FRAMEWORKS.items() if key in imports), "")
    web: Argv = ("deno", "task", "start") if starts else ("deno", "run", "--allow-all", *_BESIDE, entry) if entry else ()
    # A package.json beside it, without a start task, is a Node app that uses Deno for something else.
    score = _TASK if starts else _LONE if snapshot.has("package.json") else _ENTRY
    evidence = [Evidence(file or lock, "", "run by Deno")]
    evidence += (
        [Evidence(file, "tasks.start", "starts the server")]
        if starts
        else [Evidence(entry, "", "a customary file to start from")]
        if entry
        else []
    )
    return Candidate(
        "deno",
        score,
        Mode.SERVER,
        framework=framework,
        package_manager=PackageManager("deno", "", lock, frozen=bool(lock)),
        runtimes=_runtimes(snapshot),
        steps=_steps(manifest, entry, lock),
        web=web,
        evidence=tuple(evidence),
        missing="" if web else f"{file or lock} was seen, but no start task and no main.ts. Add a task named start.",
    )


def _task(manifest: Table, name: str) -> str:
    return text_at(manifest, "tasks", name) or text_at(manifest, "tasks", name, "command")


def _steps(manifest: Table, entry: str, lock: str) -> tuple[Step, ...]:
    frozen = ("--frozen",) if lock else ()
    what = ("--entrypoint", entry) if entry else ()
    install = Step("install", (("deno", "install", *_BESIDE, *frozen, *what),), caches=("deno",))
    build = (Step("build", (("deno", "task", "build"),), caches=("deno",)),) if _task(manifest, "build") else ()
    return (install, *build)


def _runtimes(snapshot: Snapshot) -> tuple[RuntimeVersion, ...]:
    asked = version(snapshot, "deno")
    return (asked,) if asked else ()
