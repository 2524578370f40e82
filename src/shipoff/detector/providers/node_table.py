"""Node: the frameworks, as data. What each leaves behind when nothing is configured otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from shipoff.detector.domain import Argv, Mode


@dataclass(frozen=True)
class Framework:
    """`output`: the folder of finished files, relative to the app's root. `start` and `build` stand in for absent scripts."""

    name: str
    # Any of these packages among the dependencies betrays it.
    dependencies: tuple[str, ...]
    mode: Mode
    output: str = ""
    start: Argv = ()
    build: Argv = ()
    # Any of these files does, too.
    configs: tuple[str, ...] = ()
    # Packages that have to be there besides.
    needs: tuple[str, ...] = ()
    # Variables that its build writes into files for browsers.
    public: tuple[str, ...] = ()
    # The setting behind what was found, as (file, key, rule).
    because: tuple[str, str, str] | None = None
    missing: str = ""
    warning: str = ""
    # Of the build step's environment.
    env: tuple[tuple[str, str], ...] = ()
    # A package that starts it and that the app does not bring: installed beside it, at the newest version.
    beside: str = ""


def program(*command: str) -> Argv:
    """A program that the app's packages bring."""
    return (f"node_modules/.bin/{command[0]}", *command[1:])


def _static(name: str, dependency: str, output: str, *build: str, **rest: object) -> Framework:
    return _files(Mode.STATIC, name, dependency, output, build, rest)


def _spa(name: str, dependency: str, output: str, *build: str, **rest: object) -> Framework:
    return _files(Mode.SPA, name, dependency, output, build, rest)


def _files(mode: Mode, name: str, dependency: str, output: str, build: Argv, rest: dict[str, object]) -> Framework:
    also = rest.pop("also", ())
    names = (dependency, *also) if isinstance(also, tuple) else (dependency,)
    return Framework(name, names, mode, output, (), program(*build), **rest)  # type: ignore[arg-type]  # fields of Framework


def _ssr(name: str, dependencies: tuple[str, ...], start: Argv, build: Argv, **rest: object) -> Framework:
    return Framework(name, dependencies, Mode.SSR, "", start, build, **rest)  # type: ignore[arg-type]  # fields of Framework


_NITRO: Argv = ("node", ".output/server/index.mjs")
_VITE: Argv = program("vite", "build")
_SANITY = tuple(f"sanity.config.{extension}" for extension in ("js", "jsx", "ts", "tsx"))
_STUDIO = ("SANITY_STUDIO_*",)
_VITE_PUBLIC = ("VITE_*",)

# In order of precedence: what builds on another comes before it.
FRAMEWORKS = (
    _ssr("blitz", ("blitz",), program("blitz", "start", "-p", "$PORT"), program("blitz", "build"), public=("NEXT_PUBLIC_*",)),
    _ssr("next", ("next",), program("next", "start", "-p", "$PORT"), program("next", "build"), public=("NEXT_PUBLIC_*",)),
    _ssr(
        "nuxt",
        ("nuxt", "nuxt3", "nuxt-nightly", "nuxt-edge"),
        _NITRO,
        program("nuxt", "build"),
        public=("NUXT_PUBLIC_*",),
    ),
    _ssr("sveltekit", ("@sveltejs/kit",), ("node", "build"), _VITE, public=("PUBLIC_*",)),
    _static("astro", "astro", "dist", "astro", "build", public=("PUBLIC_*",)),
    _ssr(
        "hydrogen",
        ("@shopify/hydrogen",),
        (),
        program("shopify", "hydrogen", "build"),
        public=("PUBLIC_*",),
        missing="Hydrogen builds for a worker runtime by default. Add a start script that serves it with Node.",
    ),
    _ssr(
        "react-router",
        ("@react-router/dev",),
        program("react-router-serve", "build/server/index.js"),
        program("react-router", "build"),
        public=_VITE_PUBLIC,
    ),
    _ssr(
        "remix",
        ("@remix-run/dev",),
        program("remix-serve", "build/server/index.js"),
        program("remix", "vite:build"),
        configs=("remix.config.js", "remix.config.mjs"),
        public=_VITE_PUBLIC,
    ),
    _ssr("tanstack-start", ("@tanstack/react-start", "@tanstack/solid-start"), _NITRO, _VITE, public=_VITE_PUBLIC),
    _ssr("solid-start", ("@solidjs/start",), _NITRO, program("vinxi", "build"), public=_VITE_PUBLIC),
    _ssr(
        "solid-start-0", ("solid-start",), program("solid-start", "start"), program("solid-start", "build"), public=_VITE_PUBLIC
    ),
    _ssr(
        "redwood",
        ("@redwoodjs/core",),
        program("rw", "serve", "--port", "$PORT"),
        program("rw", "build"),
        public=("REDWOOD_ENV_*",),
    ),
    _ssr("sapper", ("sapper",), ("node", "__sapper__/build"), program("sapper", "build")),
    _static("gatsby", "gatsby", "public", "gatsby", "build", public=("GATSBY_*",)),
    _static("docusaurus", "@docusaurus/core", "build", "docusaurus", "build"),
    _static("docusaurus-1", "docusaurus", "build", "docusaurus-build"),
    _static("eleventy", "@11ty/eleventy", "_site", "eleventy"),
    _static("hexo", "hexo", "public", "hexo", "generate"),
    _static("gridsome", "gridsome", "dist", "gridsome", "build", public=("GRIDSOME_*",)),
    _static("saber", "saber", "public", "saber", "build"),
    _static("scully", "@scullyio/init", "dist/static", "scully"),
    _static("vitepress", "vitepress", "docs/.vitepress/dist", "vitepress", "build", "docs"),
    _static("vuepress", "vuepress", "docs/.vuepress/dist", "vuepress", "build", "docs"),
    _spa("expo", "expo", "dist", "expo", "export", "--platform", "web", needs=("react-native-web",), public=("EXPO_PUBLIC_*",)),
    Framework("nestjs", ("@nestjs/core",), Mode.SERVER, "", ("node", "dist/main.js"), program("nest", "build")),
    _spa("ionic-angular", "@ionic/angular", "www", "ng", "build"),
    _spa("angular", "@angular/core", "dist", "ng", "build", also=("@angular/cli",), public=("NG_APP_*",)),
    _spa("create-react-app", "react-scripts", "build", "react-scripts", "build", public=("REACT_APP_*",)),
    _spa("vue-cli", "@vue/cli-service", "dist", "vue-cli-service", "build", public=("VUE_APP_*",)),
    _spa("preact-cli", "preact-cli", "build", "preact", "build", public=("PREACT_APP_*",)),
    _spa("ember", "ember-cli", "dist", "ember", "build", also=("ember-source",)),
    _spa("umi", "umi", "dist", "umi", "build", also=("@umijs/max",), public=("UMI_APP_*",)),
    _spa("stencil", "@stencil/core", "www", "stencil", "build"),
    _spa("polymer", "polymer-cli", "build/default", "polymer", "build"),
    _spa("dojo", "@dojo/framework", "output/dist", "dojo", "build", configs=(".dojorc",)),
    _spa(
        "sanity",
        "sanity",
        "dist",
        "sanity",
        "build",
        configs=("sanity.config.js", "sanity.config.ts"),
        public=_STUDIO,
    ),
    _spa("sanity-2", "@sanity/base", "dist", "sanity", "build", configs=("sanity.json",), public=_STUDIO),
    _ssr("nitro", ("nitropack", "nitro"), _NITRO, program("nitropack", "build")),
    _spa("ionic-react", "@ionic/react", "dist", "vite", "build", needs=("vite",), public=_VITE_PUBLIC),
    _spa("vite", "vite", "dist", "vite", "build", public=_VITE_PUBLIC),
    _spa("svelte", "sirv-cli", "public", "rollup", "-c", needs=("svelte",)),
    _spa("ionic-react-scripts", "@ionic/react", "build", "react-scripts", "build", public=("REACT_APP_*",)),
    _spa("rsbuild", "@rsbuild/core", "dist", "rsbuild", "build", public=("PUBLIC_*",)),
    _spa("parcel", "parcel", "dist", "parcel", "build"),
    _static("brunch", "brunch", "public", "brunch", "build", "--production", configs=("brunch-config.js",)),
    Framework("xmcp", ("xmcp",), Mode.SERVER, "", ("node", "dist/http.js"), program("xmcp", "build")),
    Framework("mastra", ("mastra",), Mode.SERVER, "", ("node", ".mastra/output/index.mjs"), program("mastra", "build")),
    _static("storybook", "storybook", "storybook-static", "storybook", "build", public=("STORYBOOK_*",)),
)

# Libraries that serve HTTP; what listens is the app's own code.
SERVERS = {
    "express": "express",
    "fastify": "fastify",
    "koa": "koa",
    "hono": "hono",
    "@hapi/hapi": "hapi",
    "polka": "polka",
    "h3": "h3",
    "elysia": "elysia",
    "restify": "restify",
    "@feathersjs/feathers": "feathers",
    "@adonisjs/core": "adonis",
    "experimental-ash": "ash",
    "eve": "eve",
}
