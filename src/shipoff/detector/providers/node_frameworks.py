"""Node: which frameworks there are, what each leaves behind, and how its own configuration changes that."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace

from shipoff.detector.domain import Mode, Snapshot, folder_of
from shipoff.detector.javascript import literals
from shipoff.detector.manifests import Table, json_table, table_at, text, text_at
from shipoff.detector.providers.node_table import FRAMEWORKS, SERVERS, Framework, program

# Where a package is installed that the app does not bring itself.
BESIDE = ".shipoff/node"
_SRVX = ("--prod", "--port", "$PORT", "--static", "../client", "dist/server/server.js")
_EXTENSIONS = ("js", "mjs", "cjs", "ts", "mts", "cts")


def server_framework(dependencies: frozenset[str]) -> str:
    """The name of a library that serves HTTP; empty: none."""
    return next((name for dependency, name in SERVERS.items() if dependency in dependencies), "")


def framework(snapshot: Snapshot, package: Table, dependencies: frozenset[str]) -> Framework | None:
    """The framework that builds the app, as its configuration has it: the one that the build script runs before others."""
    present = [candidate for candidate in FRAMEWORKS if _is_there(snapshot, candidate, dependencies)]
    context = _Context(package, dependencies)
    run = set(context.build_programs())
    named = [candidate for candidate in present if candidate.build and candidate.build[0].rpartition("/")[2] in run]
    found = next(iter([*named, *present]), None)
    if found is None:
        return None
    if found in named and named[0] is not present[0] and found.mode.files_only and not present[0].mode.files_only:
        # A site beside a server of the same package: the server is the app.
        found = present[0]
    return _ADJUSTED[found.name](snapshot, found, context) if found.name in _ADJUSTED else found


def _is_there(snapshot: Snapshot, candidate: Framework, dependencies: frozenset[str]) -> bool:
    if candidate.needs and not dependencies.issuperset(candidate.needs):
        return False
    return not dependencies.isdisjoint(candidate.dependencies) or bool(snapshot.first(*candidate.configs))


def betrayed_by(found: Framework, snapshot: Snapshot, package: Table) -> tuple[str, str]:
    """(file, key) of what gave the framework away."""
    for kind in ("dependencies", "devDependencies", "optionalDependencies"):
        if named := next((name for name in found.dependencies if name in table_at(package, kind)), ""):
            return "package.json", f"{kind}.{named}"
    return snapshot.first(*found.configs), ""


@dataclass(frozen=True)
class _Context:
    package: Table
    dependencies: frozenset[str]

    def build_words(self) -> list[str]:
        try:
            return shlex.split(text_at(self.package, "scripts", "build"))
        except ValueError:
            return []

    def build_programs(self) -> list[str]:
        """The programs that the build script runs: the first word of each of its commands."""
        words = self.build_words()
        first = [word for index, word in enumerate(words) if index == 0 or words[index - 1] in ("&&", ";", "||", "npx", "exec")]
        return [word.rpartition("/")[2] for word in first]


def _config(snapshot: Snapshot, name: str) -> tuple[str, dict[str, str]]:
    file = snapshot.first(*(f"{name}.{extension}" for extension in _EXTENSIONS))
    return file, literals(text(snapshot, file)) if file else {}


def _next(snapshot: Snapshot, found: Framework, _context: _Context) -> Framework:
    file, config = _config(snapshot, "next.config")
    if config.get("output") != "export":
        return found
    because = (file, "output", "exports static files")
    exported = replace(found, mode=Mode.STATIC, output="out", start=(), because=because)
    return _with_output(exported, file, "distDir", config.get("distDir", ""))


def _nuxt(_snapshot: Snapshot, found: Framework, context: _Context) -> Framework:
    words = context.build_words()
    if words[:2] not in (["nuxt", "generate"], ["nuxi", "generate"]):
        return found
    because = ("package.json", "scripts.build", "generates static files")
    return replace(found, mode=Mode.STATIC, output=".output/public", start=(), because=because)


def _sveltekit(_snapshot: Snapshot, found: Framework, context: _Context) -> Framework:
    if "@sveltejs/adapter-node" in context.dependencies:
        return replace(found, because=("package.json", "devDependencies.@sveltejs/adapter-node", "runs as a Node server"))
    if "@sveltejs/adapter-static" in context.dependencies:
        because = ("package.json", "devDependencies.@sveltejs/adapter-static", "leaves static files")
        return replace(found, mode=Mode.STATIC, output="build", start=(), because=because)
    if "@sveltejs/adapter-auto" in context.dependencies:
        # What it looks for before it takes (and installs) adapter-node: https://svelte.dev/docs/kit/adapter-auto.
        warning = "adapter-auto chooses SvelteKit's adapter: name @sveltejs/adapter-node in svelte.config.js instead"
        return replace(found, env=(("GCP_BUILDPACKS", "true"),), warning=warning)
    missing = (
        "package.json has SvelteKit without an adapter for servers or static files. "
        "Add @sveltejs/adapter-node (or @sveltejs/adapter-static) and name it in svelte.config.js."
    )
    return replace(found, missing=missing)


def _tanstack(_snapshot: Snapshot, found: Framework, context: _Context) -> Framework:
    """With Nitro a server that starts; without it a handler that another program has to serve."""
    if {"nitro", "nitropack"} & context.dependencies:
        return found
    if "srvx" in context.dependencies:
        start = program("srvx", *_SRVX)
        return replace(found, start=start, because=("package.json", "dependencies.srvx", "serves the built handler"))
    beside = f"{BESIDE}/node_modules/.bin/srvx"
    warning = "TanStack Start comes without a server for Node: the newest srvx is installed. Add nitro or srvx to choose"
    return replace(found, start=(beside, *_SRVX), beside="srvx", warning=warning)


def _pages_folder(_snapshot: Snapshot, found: Framework, context: _Context) -> Framework:
    """VitePress and VuePress write below the folder that their build command names; without one, below the root."""
    words = context.build_words()
    if words[:2] != [found.name, "build"]:
        return found
    folder = words[2] if len(words) > 2 and not words[2].startswith("-") else "."
    return _with_output(found, "package.json", "scripts.build", f"{folder}/.{found.name}/dist")


def _expo(snapshot: Snapshot, found: Framework, _context: _Context) -> Framework:
    """`web.output` of app.json: a single page, or a page a route; a server needs code of its own."""
    output = text_at(json_table(snapshot, "app.json").table, "expo", "web", "output")
    if output == "static":
        return replace(found, mode=Mode.STATIC, because=("app.json", "expo.web.output", "a page for every route"))
    if output == "server":
        return replace(found, missing="app.json (expo.web.output) asks for a server: add a start script that runs it.")
    return found


def _astro(snapshot: Snapshot, found: Framework, context: _Context) -> Framework:
    file, config = _config(snapshot, "astro.config")
    if "@astrojs/node" in context.dependencies:
        because = ("package.json", "dependencies.@astrojs/node", "runs as a Node server")
        return replace(found, mode=Mode.SSR, output="", start=("node", "dist/server/entry.mjs"), because=because)
    return _with_output(found, file, "outDir", config.get("outDir", ""))


def _react_router(snapshot: Snapshot, found: Framework, _context: _Context) -> Framework:
    file, config = _config(snapshot, "react-router.config")
    if config.get("ssr") != "false":
        return found
    return replace(found, mode=Mode.SPA, output="build/client", start=(), because=(file, "ssr", "leaves static files"))


def _vite(snapshot: Snapshot, found: Framework, context: _Context) -> Framework:
    words = context.build_words()
    for index, word in enumerate(words):
        if word.startswith("--outDir="):
            return _with_output(found, "package.json", "scripts.build", word.removeprefix("--outDir="))
        if word == "--outDir" and index + 1 < len(words):
            return _with_output(found, "package.json", "scripts.build", words[index + 1])
    file, config = _config(snapshot, "vite.config")
    root, output = config.get("root", ""), config.get("build.outDir", "")
    if not root and not output:
        return found
    return _with_output(found, file, "build.outDir", f"{root or '.'}/{output or found.output}")


def _angular(snapshot: Snapshot, found: Framework, _context: _Context) -> Framework:
    """outputPath of the default project; the application builder puts the pages in `browser` below it."""
    workspace = json_table(snapshot, "angular.json").table
    projects = table_at(workspace, "projects")
    name = text_at(workspace, "defaultProject") or next(iter(projects), "")
    targets = table_at(projects, name, "architect") or table_at(projects, name, "targets")
    options = table_at(targets, "build", "options")
    base = text_at(options, "outputPath") or text_at(options, "outputPath", "base") or (f"dist/{name}" if name else "dist")
    nested = text_at(targets, "build", "builder").rpartition(":")[2] in ("application", "browser-esbuild")
    browser = table_at(options, "outputPath").get("browser", "browser") if nested else ""
    output = f"{base}/{browser}".rstrip("/") if isinstance(browser, str) else base
    return _with_output(found, "angular.json", f"projects.{name}", output)


def _with_output(found: Framework, file: str, key: str, output: str) -> Framework:
    if not output.strip():
        return found
    folder = folder_of(output)
    if folder is None:
        return replace(found, missing=f"{file} ({key}) lets the build write outside of the app. Choose a folder inside it.")
    return replace(found, output=folder, because=(file, key, f"the build writes to {folder}"))


_ADJUSTED = {
    "tanstack-start": _tanstack,
    "vitepress": _pages_folder,
    "vuepress": _pages_folder,
    "expo": _expo,
    "next": _next,
    "nuxt": _nuxt,
    "sveltekit": _sveltekit,
    "astro": _astro,
    "react-router": _react_router,
    "vite": _vite,
    "angular": _angular,
}
