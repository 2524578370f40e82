"""Node: sites and apps that a build leaves as files, servers, and servers that render."""

from __future__ import annotations

import posixpath
import shlex
from dataclasses import dataclass, replace

from shipoff.detector.commands import is_simple
from shipoff.detector.domain import Argv, Candidate, Evidence, Mode, RuntimeVersion, Snapshot, Step
from shipoff.detector.manifests import Table, first_line, json_table, list_at, table_at, text_at
from shipoff.detector.providers.node_frameworks import Framework, framework, server_framework
from shipoff.detector.providers.node_packages import Manager, manager

_ENTRY_FILES = tuple(
    f"{folder}{name}.{extension}"
    for folder in ("", "src/")
    for name in ("server", "index", "app", "main")
    for extension in ("js", "mjs", "cjs")
)
_BIN = "node_modules/.bin"
# First words of start scripts that serve for development or serve finished files.
_DEVELOPMENT = frozenset(
    {"vite", "react-scripts", "parcel", "ng", "vue-cli-service", "webpack", "webpack-dev-server", "serve", "http-server"}
    | {"live-server", "astro", "gatsby", "docusaurus", "eleventy", "browser-sync"}
)
_DEPENDENCY_TABLES = ("dependencies", "devDependencies", "optionalDependencies")

_SERVER_FRAMEWORK, _FRAMEWORK, _START_SCRIPT, _UNKNOWN_BUILD, _ENTRY_FILE = 88, 85, 70, 55, 50


@dataclass(frozen=True)
class _App:
    snapshot: Snapshot
    package: Table
    dependencies: frozenset[str]
    manager: Manager

    def script(self, name: str) -> str:
        return text_at(self.package, "scripts", name)

    def run(self, name: str) -> Argv:
        return (*self.manager.program, "run", name)


def node(snapshot: Snapshot) -> Candidate | None:
    """What package.json describes; a lone server.js counts as an app too."""
    reading = json_table(snapshot, "package.json")
    if reading.unreadable:
        message = f"{reading.unreadable}. Mend it and deploy again."
        return Candidate("node", _UNKNOWN_BUILD, Mode.SERVER, blocked=message)
    names = {str(name) for table in _DEPENDENCY_TABLES for name in table_at(reading.table, table)}
    app = _App(snapshot, reading.table, frozenset(names), manager(snapshot, reading.table))
    candidate = _candidate(app)
    if not candidate or not snapshot.has("package.json"):
        return candidate
    return _installing(app, candidate)


def _candidate(app: _App) -> Candidate | None:
    built = framework(app.snapshot, app.package, app.dependencies)
    served = server_framework(app.dependencies)
    start, evidence = _start(app)
    if built and not (built.mode.files_only and start and (served or _serves(app))):
        return _framework_candidate(app, built, start)
    if start:
        score = _SERVER_FRAMEWORK if served else _START_SCRIPT if app.script("start") else _ENTRY_FILE
        return Candidate("node", score, Mode.SERVER, framework=served, web=start, evidence=evidence)
    if app.script("build"):
        missing = (
            "package.json has a build script, but nothing tells where it writes to, nor what to start. "
            "Set the output directory, or add a start script."
        )
        return Candidate("node", _UNKNOWN_BUILD, Mode.STATIC, missing=missing)
    if served:
        missing = f"package.json depends on {served}, but there is no start script and no server.js. Add a start script."
        return Candidate("node", _UNKNOWN_BUILD, Mode.SERVER, framework=served, missing=missing)
    return None


def _framework_candidate(app: _App, built: Framework, start: Argv) -> Candidate:
    evidence = [Evidence("package.json", built.dependency, f"{built.name}, built to {_outcome(built)}")]
    if built.because:
        evidence.append(Evidence(*built.because))
    web: Argv = ()
    if not built.mode.files_only:
        # `next start` without a port, or with a fixed one, would miss ours.
        own = built.name == "next" and (not start or start[:2] == built.start[:2])
        web = built.start if own or not app.script("start") or not _serves(app) else start
    score = _SERVER_FRAMEWORK if built.mode is Mode.SERVER else _FRAMEWORK
    return Candidate(
        "node",
        score,
        built.mode,
        framework=built.name,
        output_dir=built.output if built.mode.files_only else "",
        web=web,
        evidence=tuple(evidence),
        steps=() if app.script("build") else (Step("build", (built.build,)),),
        missing=built.missing,
    )


def _outcome(built: Framework) -> str:
    return f"files in {built.output}" if built.mode.files_only else "a server"


def _serves(app: _App) -> bool:
    """Whether the start script is more than a development server, or a server of finished files."""
    words = app.script("start").split()
    return bool(words) and words[0].rpartition("/")[2] not in _DEVELOPMENT


def _start(app: _App) -> tuple[Argv, tuple[Evidence, ...]]:
    """The start script, else `main`, else a customary file."""
    if app.script("start"):
        return _start_script(app), (Evidence("package.json", "scripts.start", "starts the server"),)
    main = posixpath.normpath(text_at(app.package, "main") or ".")
    for path in (main, f"{main}.js", f"{main}/index.js"):
        if app.snapshot.has(path) and path.endswith(("js", "mjs", "cjs")):
            return ("node", path), (Evidence("package.json", "main", "starts the server"),)
    file = app.snapshot.first(*_ENTRY_FILES)
    if file and (app.snapshot.has("package.json") or posixpath.basename(file).startswith("server.")):
        return ("node", file), (Evidence(file, "", "a customary file to start from"),)
    return (), ()


def _start_script(app: _App) -> Argv:
    """The script's own words where no shell is needed, so that no npm stays between the runtime and the server."""
    script = app.script("start")
    hooks = app.script("prestart") or app.script("poststart")
    try:
        words = shlex.split(script)
    except ValueError:
        words = []
    if words and not hooks and is_simple(script):
        if words[0] == "node":
            return tuple(words)
        if words[0] in app.dependencies:
            return (f"{_BIN}/{words[0]}", *words[1:])
    return ("npm", "run", "start")


def _installing(app: _App, candidate: Candidate) -> Candidate:
    """The candidate with its install and build steps."""
    tool = app.manager
    needed = bool(app.dependencies or app.package.get("workspaces"))
    install = Step("install", (tool.install,), env=tool.env, caches=tool.caches, inputs=tool.inputs)
    build = Step("build", (app.run("build"),), env=tool.env, caches=tool.caches)
    evidence = [*candidate.evidence, *(tool.evidence if needed else ())]
    if app.script("build"):
        evidence.append(Evidence("package.json", "scripts.build", "builds the app"))
    return replace(
        candidate,
        package_manager=tool.manager,
        runtimes=_runtimes(app),
        steps=((install,) if needed else ()) + ((build,) if app.script("build") else candidate.steps),
        evidence=tuple(evidence),
        warnings=(*candidate.warnings, *(tool.warnings if needed else ())),
        programs_folder=_BIN if needed else "",
        programs=app.dependencies,
        installs=(tool.install,),
        missing=candidate.missing or _workspaces(app, candidate),
        blocked=tool.conflict if needed else "",
    )


def _workspaces(app: _App, candidate: Candidate) -> str:
    """A root that only gathers workspaces has nothing of its own to run."""
    patterns = [item for item in list_at(app.package, "workspaces") if isinstance(item, str)]
    if not patterns or candidate.web or candidate.output_dir:
        return ""
    return f"package.json gathers workspaces ({', '.join(patterns[:3])}). Set the root directory to the one to deploy."


def _runtimes(app: _App) -> tuple[RuntimeVersion, ...]:
    for file in (".nvmrc", ".node-version"):
        if line := first_line(app.snapshot, file):
            return (RuntimeVersion("node", line, file),)
    wanted = text_at(app.package, "engines", "node")[:64]
    return (RuntimeVersion("node", wanted, "package.json: engines.node"),) if wanted else ()
