"""Node: sites and apps that a build leaves as files, servers, and servers that render."""

from __future__ import annotations

import posixpath
import shlex
from dataclasses import dataclass, replace

from shipoff.detector.commands import is_simple
from shipoff.detector.domain import Argv, Candidate, Choice, Evidence, Mode, RuntimeVersion, Settings, Snapshot, Step
from shipoff.detector.formats import jsonc_table
from shipoff.detector.manifests import Table, json_table, table_at, text_at
from shipoff.detector.providers.node_frameworks import BESIDE, betrayed_by, framework, server_framework
from shipoff.detector.providers.node_packages import MANAGERS, Manager, bun_beside, manager
from shipoff.detector.providers.node_table import Framework
from shipoff.detector.providers.node_workspaces import in_workspace
from shipoff.detector.versions import version
from shipoff.detector.workspaces import NodeWorkspace, enclosing, node_patterns

_ENTRY_FILES = tuple(
    f"{folder}{name}.{extension}"
    for folder in ("", "src/")
    for name in ("server", "index", "app", "main")
    for extension in ("js", "mjs", "cjs", "ts", "mts")
)
_BIN = "node_modules/.bin"
_RUNS = (".js", ".mjs", ".cjs", ".ts", ".mts")
# First words of start scripts that serve for development or serve finished files.
_DEVELOPMENT = frozenset(
    {"vite", "react-scripts", "parcel", "ng", "vue-cli-service", "webpack", "webpack-dev-server", "serve", "http-server"}
    | {"live-server", "astro", "gatsby", "docusaurus", "eleventy", "browser-sync", "expo", "ember", "storybook"}
)
# They render pages, and find nothing to render where the build left finished files.
_RENDERERS = frozenset({"next", "nuxt", "nuxi", "react-router-serve", "remix-serve", "blitz"})
_DEPENDENCY_TABLES = ("dependencies", "devDependencies", "optionalDependencies")

_SERVER_FRAMEWORK, _FRAMEWORK, _START_SCRIPT, _UNKNOWN_BUILD, _ENTRY_FILE = 88, 85, 70, 55, 50


@dataclass(frozen=True)
class _App:
    snapshot: Snapshot
    package: Table
    dependencies: frozenset[str]
    manager: Manager
    workspace: NodeWorkspace | None = None

    def script(self, name: str) -> str:
        return text_at(self.package, "scripts", name)

    def run(self, name: str) -> Argv:
        return (*self.manager.program, "run", name)


def node(snapshot: Snapshot, settings: Settings) -> Candidate | None:
    """What package.json describes; a lone server.js counts as an app too."""
    # pnpm reads a package.json5 too; of its form, what JSON with comments allows.
    json5 = not snapshot.has("package.json") and snapshot.has("package.json5")
    reading = jsonc_table(snapshot, "package.json5") if json5 else json_table(snapshot, "package.json")
    if reading.unreadable:
        message = f"{reading.unreadable}. Mend it and deploy again."
        return Candidate("node", _UNKNOWN_BUILD, Mode.SERVER, blocked=message)
    names = {str(name) for table in _DEPENDENCY_TABLES for name in table_at(reading.table, table)}
    workspace = enclosing(snapshot)
    at, package = (workspace.snapshot, workspace.package) if workspace else (snapshot, reading.table)
    tool = manager(at, package, settings.package_manager if settings.package_manager in MANAGERS else "")
    app = _App(snapshot, reading.table, frozenset(names), tool, workspace)
    candidate = _candidate(app)
    if not candidate or not snapshot.first("package.json", "package.json5"):
        return candidate
    candidate = _installing(app, candidate)
    return in_workspace(candidate, workspace, snapshot.place, tool) if workspace else candidate


def _candidate(app: _App) -> Candidate | None:
    built = framework(app.snapshot, app.package, app.dependencies)
    served = server_framework(app.dependencies)
    start, evidence = _start(app)
    if built and not (built.mode.files_only and start and (served or _serves(app)) and not _renders(app)):
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
    file, key = betrayed_by(built, app.snapshot, app.package)
    evidence = [Evidence(file, key, f"{built.name}, built to {_outcome(built)}")]
    if built.because:
        evidence.append(Evidence(*built.because))
    web: Argv = ()
    if not built.mode.files_only:
        # `next start` without a port, or with a fixed one, would miss ours.
        own = built.name == "next" and (not start or start[:2] == built.start[:2])
        web = built.start if built.start and (own or not app.script("start") or not _serves(app)) else start
    missing = "" if built.mode is Mode.SSR and app.script("start") and _serves(app) else built.missing
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
        missing=missing,
        warnings=(built.warning,) if built.warning and web == built.start else (),
        beside=built.beside if web == built.start else "",
        build_env=dict(built.env),
        public_build_env=built.public,
    )


def _outcome(built: Framework) -> str:
    return f"files in {built.output}" if built.mode.files_only else "a server"


def _serves(app: _App) -> bool:
    """Whether the start script is more than a development server, or a server of finished files."""
    words = app.script("start").split()
    return bool(words) and words[0].rpartition("/")[2] not in _DEVELOPMENT


def _renders(app: _App) -> bool:
    words = app.script("start").split()
    return bool(words) and words[0].rpartition("/")[2] in _RENDERERS


def _start(app: _App) -> tuple[Argv, tuple[Evidence, ...]]:
    """The start script, else `main`, else a customary file."""
    if app.script("start"):
        return _start_script(app), (Evidence("package.json", "scripts.start", "starts the server"),)
    main = posixpath.normpath(text_at(app.package, "main") or ".")
    for path in (main, f"{main}.js", f"{main}/index.js"):
        if app.snapshot.has(path) and path.endswith(_RUNS):
            return _run(app, path), (Evidence("package.json", "main", "starts the server"),)
    module = posixpath.normpath(text_at(app.package, "module") or ".")
    if app.snapshot.has(module) and module.endswith(_RUNS):
        return _run(app, module), (Evidence("package.json", "module", "starts the server"),)
    file = app.snapshot.first(*_ENTRY_FILES)
    if file and (app.snapshot.first("package.json", "package.json5") or posixpath.basename(file).startswith("server.")):
        return _run(app, file), (Evidence(file, "", "a customary file to start from"),)
    return (), ()


def _run(app: _App, file: str) -> Argv:
    """Node runs TypeScript without enums and the like by itself from 22.18 on; Bun and tsx run all of it."""
    if app.manager.manager.name == "bun":
        return ("bun", file)
    return (f"{_BIN}/tsx", file) if file.endswith("ts") and "tsx" in app.dependencies else ("node", file)


def _start_script(app: _App) -> Argv:
    """The script's own words where no shell is needed, so that no npm stays between the runtime and the server."""
    script = app.script("start")
    hooks = app.script("prestart") or app.script("poststart")
    try:
        words = shlex.split(script)
    except ValueError:
        words = []
    if words and not hooks and is_simple(script):
        if words[0] in ("node", "bun"):
            return tuple(words)
        if words[0] in app.dependencies:
            return (f"{_BIN}/{words[0]}", *words[1:])
    return ("bun", "run", "start") if app.manager.manager.name == "bun" else ("npm", "run", "start")


def _installing(app: _App, candidate: Candidate) -> Candidate:
    """The candidate with its install and build steps."""
    tool = app.manager
    needed = bool(app.dependencies or node_patterns(app.snapshot) or app.workspace)
    candidate, extra = bun_beside(candidate, tool, app.script("start"))
    beside = _beside(candidate.beside) if candidate.beside else ()
    install = Step(
        "install", (*((tool.install,) if needed else ()), *extra, *beside), env=tool.env, caches=tool.caches, inputs=tool.inputs
    )
    build = Step("build", (app.run("build"),), env={**tool.env, **candidate.build_env}, caches=tool.caches)
    evidence = [*candidate.evidence, *(tool.evidence if needed else ())]
    if app.script("build"):
        evidence.append(Evidence("package.json", "scripts.build", "builds the app"))
    built = (build,) if app.script("build") else candidate.steps
    missing, choices = _gathering(app, candidate)
    return replace(
        candidate,
        package_manager=tool.manager,
        runtimes=_runtimes(app, candidate),
        steps=((install,) if install.commands else ()) + built,
        evidence=tuple(evidence),
        warnings=(*candidate.warnings, *(tool.warnings if needed else ())),
        programs_folder=_BIN if needed else "",
        programs=app.dependencies,
        installs=(tool.install,),
        missing=candidate.missing or missing,
        blocked=tool.conflict if needed else "",
        decided_by="package_manager" if tool.conflict and needed else candidate.decided_by,
        choices=tool.choices if tool.conflict and needed else choices,
    )


def _beside(package: str) -> tuple[Argv, ...]:
    return (("npm", "install", "--prefix", BESIDE, "--no-save", "--no-audit", "--no-fund", package),)


def _gathering(app: _App, candidate: Candidate) -> tuple[str, tuple[Choice, ...]]:
    """A root that only gathers workspaces has nothing of its own to run."""
    patterns = node_patterns(app.snapshot)
    if not patterns or candidate.web or candidate.output_dir:
        return "", ()
    return f"package.json gathers workspaces ({', '.join(patterns[:3])}). Set the root directory to the one to deploy.", ()


def _runtimes(app: _App, candidate: Candidate) -> tuple[RuntimeVersion, ...]:
    """Node's version from its own files, then from `engines`; Bun's where it runs the app."""
    found = [version(app.snapshot, "bun")] if candidate.web[:1] and candidate.web[0].endswith("bun") else []
    asked = version(app.snapshot, "node")
    for table, key in (("volta", "node"), ("engines", "node")):
        if not asked and (wanted := text_at(app.package, table, key)[:64]):
            asked = RuntimeVersion("node", wanted, f"package.json: {table}.{key}")
    return tuple(item for item in (asked, *found) if item)
