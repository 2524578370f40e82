"""Node: which frameworks there are, what each leaves behind, and how its own configuration changes that."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace

from shipoff.detector.domain import Argv, Mode, Snapshot, folder_of
from shipoff.detector.javascript import literals
from shipoff.detector.manifests import Table, json_table, table_at, text, text_at

_EXTENSIONS = ("js", "mjs", "cjs", "ts", "mts", "cts")


@dataclass(frozen=True)
class Framework:
    """`output`: the folder of finished files, relative to the app's root. `start` and `build` stand in for absent scripts."""

    name: str
    dependency: str
    mode: Mode
    output: str = ""
    start: Argv = ()
    build: Argv = ()
    # The setting behind what was found, as (file, key, rule).
    because: tuple[str, str, str] | None = None
    missing: str = ""


def _bin(*command: str) -> Argv:
    return (f"node_modules/.bin/{command[0]}", *command[1:])


_NITRO_START: Argv = ("node", ".output/server/index.mjs")
# In order of precedence: what builds on another comes before it.
_FRAMEWORKS = (
    Framework("next", "next", Mode.SSR, "", _bin("next", "start", "-p", "$PORT"), _bin("next", "build")),
    Framework("nuxt", "nuxt", Mode.SSR, "", _NITRO_START, _bin("nuxt", "build")),
    Framework("sveltekit", "@sveltejs/kit", Mode.SSR, "", ("node", "build"), _bin("vite", "build")),
    Framework("astro", "astro", Mode.STATIC, "dist", (), _bin("astro", "build")),
    Framework(
        "react-router",
        "@react-router/dev",
        Mode.SSR,
        "",
        _bin("react-router-serve", "build/server/index.js"),
        _bin("react-router", "build"),
    ),
    Framework(
        "remix", "@remix-run/dev", Mode.SSR, "", _bin("remix-serve", "build/server/index.js"), _bin("remix", "vite:build")
    ),
    Framework("tanstack-start", "@tanstack/react-start", Mode.SSR, "", _NITRO_START, _bin("vite", "build")),
    Framework("solid-start", "@solidjs/start", Mode.SSR, "", _NITRO_START, _bin("vinxi", "build")),
    Framework("gatsby", "gatsby", Mode.STATIC, "public", (), _bin("gatsby", "build")),
    Framework("docusaurus", "@docusaurus/core", Mode.STATIC, "build", (), _bin("docusaurus", "build")),
    Framework("eleventy", "@11ty/eleventy", Mode.STATIC, "_site", (), _bin("eleventy")),
    Framework("nestjs", "@nestjs/core", Mode.SERVER, "", ("node", "dist/main.js"), _bin("nest", "build")),
    Framework("angular", "@angular/core", Mode.SPA, "dist", (), _bin("ng", "build")),
    Framework("create-react-app", "react-scripts", Mode.SPA, "build", (), _bin("react-scripts", "build")),
    Framework("vue-cli", "@vue/cli-service", Mode.SPA, "dist", (), _bin("vue-cli-service", "build")),
    Framework("vite", "vite", Mode.SPA, "dist", (), _bin("vite", "build")),
    Framework("parcel", "parcel", Mode.SPA, "dist", (), _bin("parcel", "build")),
)
_SERVERS = {"express": "express", "fastify": "fastify", "koa": "koa", "hono": "hono", "@hapi/hapi": "hapi", "polka": "polka"}


def server_framework(dependencies: frozenset[str]) -> str:
    """The name of a library that serves HTTP; empty: none."""
    return next((name for dependency, name in _SERVERS.items() if dependency in dependencies), "")


def framework(snapshot: Snapshot, package: Table, dependencies: frozenset[str]) -> Framework | None:
    """The framework that builds the app, as its configuration has it."""
    found = next((candidate for candidate in _FRAMEWORKS if candidate.dependency in dependencies), None)
    return (
        _ADJUSTED[found.name](snapshot, found, _Context(package, dependencies)) if found and found.name in _ADJUSTED else found
    )


@dataclass(frozen=True)
class _Context:
    package: Table
    dependencies: frozenset[str]

    def build_words(self) -> list[str]:
        try:
            return shlex.split(text_at(self.package, "scripts", "build"))
        except ValueError:
            return []


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
    missing = (
        "package.json has SvelteKit without an adapter for servers or static files. "
        "Add @sveltejs/adapter-node (or @sveltejs/adapter-static) and name it in svelte.config.js."
    )
    return replace(found, missing=missing)


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
    "next": _next,
    "nuxt": _nuxt,
    "sveltekit": _sveltekit,
    "astro": _astro,
    "react-router": _react_router,
    "vite": _vite,
    "angular": _angular,
}
