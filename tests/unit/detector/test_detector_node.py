"""Node sources and the plans they get."""

from __future__ import annotations

import pytest
from unit.detector.detector_sources import commands, package, planned, problem, web

from shipoff.detector.domain import Mode
from shipoff.detector.javascript import literals

VITE = package(devDependencies={"vite": "8"}, scripts={"build": "vite build"})
_ANGULAR = package(projects={"shop": {"architect": {"build": {"builder": "@angular/build:application", "options": {}}}}})
_LOCK = {"package-lock.json": "{}"}


@pytest.mark.parametrize(
    ("content", "files", "command"),
    [
        ({"scripts": {"start": "node server.js"}}, {}, "node server.js"),
        ({"scripts": {"start": "NODE_ENV=production node server.js"}}, {}, "npm run start"),
        ({"scripts": {"start": "node server.js", "prestart": "echo"}}, {}, "npm run start"),
        ({"scripts": {"start": "node a.js && node b.js"}}, {}, "npm run start"),
        ({"scripts": {"start": "tsx src/index.ts"}}, {}, "npm run start"),
        ({"scripts": {"start": "tsx src/index.ts"}, "dependencies": {"tsx": "4"}}, {}, "node_modules/.bin/tsx src/index.ts"),
        ({"main": "./lib/start.js"}, {"lib/start.js": ""}, "node lib/start.js"),
        ({"main": "lib"}, {"lib/index.js": ""}, "node lib/index.js"),
        ({}, {"src/server.mjs": ""}, "node src/server.mjs"),
    ],
)
def test_start_command(content: dict[str, object], files: dict[str, str], command: str) -> None:
    plan = planned({"package.json": package(**{"dependencies": {"express": "5"}, **content}), **_LOCK, **files})
    assert web(plan) == command
    assert plan.mode is Mode.SERVER


@pytest.mark.parametrize("name", ["express", "fastify", "koa"])
def test_server_library_names_the_framework(name: str) -> None:
    plan = planned({"package.json": package(dependencies={name: "1"}, scripts={"start": "node ."}), **_LOCK})
    assert plan.framework == name


@pytest.mark.parametrize(
    ("dependencies", "files", "framework", "mode", "output"),
    [
        ({"vite": "8"}, {}, "vite", Mode.SPA, "dist"),
        (
            {"vite": "8"},
            {"vite.config.ts": "export default defineConfig({ build: { outDir: './public/app' } })"},
            "vite",
            Mode.SPA,
            "public/app",
        ),
        (
            {"vite": "8"},
            {"vite.config.js": "export default { root: 'web', build: { outDir: '../out' } }"},
            "vite",
            Mode.SPA,
            "out",
        ),
        (
            {"vite": "8"},
            {"vite.config.js": "// build: { outDir: 'no' }\nexport default { test: { outDir: 'no' } }"},
            "vite",
            Mode.SPA,
            "dist",
        ),
        ({"react-scripts": "5"}, {}, "create-react-app", Mode.SPA, "build"),
        ({"@vue/cli-service": "5"}, {}, "vue-cli", Mode.SPA, "dist"),
        ({"astro": "5", "vite": "8"}, {}, "astro", Mode.STATIC, "dist"),
        ({"gatsby": "5"}, {}, "gatsby", Mode.STATIC, "public"),
        ({"@11ty/eleventy": "3"}, {}, "eleventy", Mode.STATIC, "_site"),
        ({"next": "16"}, {"next.config.mjs": 'export default { output: "export" }'}, "next", Mode.STATIC, "out"),
        ({"@sveltejs/kit": "2", "vite": "8", "@sveltejs/adapter-static": "3"}, {}, "sveltekit", Mode.STATIC, "build"),
        (
            {"@react-router/dev": "7", "vite": "8"},
            {"react-router.config.ts": "export default { ssr: false }"},
            "react-router",
            Mode.SPA,
            "build/client",
        ),
        (
            {"@angular/core": "20"},
            {"angular.json": _ANGULAR},
            "angular",
            Mode.SPA,
            "dist/shop/browser",
        ),
    ],
)
def test_where_the_finished_files_are(
    dependencies: dict[str, str], files: dict[str, str], framework: str, mode: Mode, output: str
) -> None:
    plan = planned({"package.json": package(devDependencies=dependencies, scripts={"build": "x"}), **_LOCK, **files})
    assert (plan.framework, plan.mode, plan.output_dir) == (framework, mode, output)
    assert plan.processes == ()


@pytest.mark.parametrize(
    ("dependencies", "start", "command"),
    [
        ({"next": "16"}, "next start", "node_modules/.bin/next start -p $PORT"),
        ({"next": "16"}, "", "node_modules/.bin/next start -p $PORT"),
        ({"next": "16"}, "node server.js", "node server.js"),
        ({"nuxt": "4"}, "", "node .output/server/index.mjs"),
        ({"astro": "5", "@astrojs/node": "9"}, "astro dev", "node dist/server/entry.mjs"),
        ({"@sveltejs/kit": "2", "@sveltejs/adapter-node": "5"}, "", "node build"),
    ],
)
def test_rendering_servers(dependencies: dict[str, str], start: str, command: str) -> None:
    scripts = {"build": "x", **({"start": start} if start else {})}
    plan = planned({"package.json": package(dependencies=dependencies, scripts=scripts), **_LOCK})
    assert plan.mode is Mode.SSR
    assert web(plan) == command
    assert plan.output_dir == ""


def test_a_server_that_also_builds_a_front_end_is_a_server() -> None:
    content = package(dependencies={"express": "5", "vite": "8"}, scripts={"build": "vite build", "start": "node server.js"})
    plan = planned({"package.json": content, "index.html": "", **_LOCK})
    assert (plan.mode, web(plan), commands(plan, "build")) == (Mode.SERVER, "node server.js", ["npm run build"])


def test_a_development_server_as_start_script_does_not_make_a_server() -> None:
    content = package(devDependencies={"vite": "8"}, scripts={"build": "vite build", "start": "vite preview"})
    assert planned({"package.json": content, **_LOCK}).mode is Mode.SPA


@pytest.mark.parametrize(
    ("files", "field", "install", "build"),
    [
        (_LOCK, "", "npm ci --include=dev --no-audit --no-fund", "npm run build"),
        ({}, "", "npm install --include=dev --no-audit --no-fund", "npm run build"),
        (
            {"pnpm-lock.yaml": "lockfileVersion: '9.0'"},
            "",
            "npx --yes pnpm@9 install --frozen-lockfile --prod=false",
            "npx --yes pnpm@9 run build",
        ),
        (
            {"pnpm-lock.yaml": "lockfileVersion: '6.0'"},
            "",
            "npx --yes pnpm@8 install --frozen-lockfile --prod=false",
            "npx --yes pnpm@8 run build",
        ),
        (
            {"pnpm-lock.yaml": "lockfileVersion: '9.0'"},
            "pnpm@10.2.1+sha512.aa",
            "npx --yes pnpm@10.2.1 install --frozen-lockfile --prod=false",
            "npx --yes pnpm@10.2.1 run build",
        ),
        (
            {"yarn.lock": "# yarn lockfile v1\n"},
            "",
            "npx --yes yarn@1.22.22 install --frozen-lockfile --production=false --non-interactive",
            "npx --yes yarn@1.22.22 run build",
        ),
        (
            {"yarn.lock": "__metadata:\n  version: 8\n"},
            "",
            "npx --yes @yarnpkg/cli-dist@4.9.1 install --immutable",
            "npx --yes @yarnpkg/cli-dist@4.9.1 run build",
        ),
        (
            {"yarn.lock": "", **_LOCK},
            "yarn@4.5.0",
            "npx --yes @yarnpkg/cli-dist@4.5.0 install --immutable",
            "npx --yes @yarnpkg/cli-dist@4.5.0 run build",
        ),
    ],
)
def test_package_manager(files: dict[str, str], field: str, install: str, build: str) -> None:
    content = package(
        devDependencies={"vite": "8"}, scripts={"build": "vite build"}, **({"packageManager": field} if field else {})
    )
    plan = planned({"package.json": content, **files})
    assert commands(plan, "install") == [install]
    assert commands(plan, "build") == [build]
    assert plan.package_manager.frozen is bool(files)


def test_two_lock_files_are_a_question() -> None:
    files = {"package.json": VITE, "yarn.lock": "", **_LOCK}
    assert "package-lock.json and yarn.lock" in problem(files)
    assert planned(files, install_command="npm ci").package_manager.name == "npm"


def test_no_lock_file_is_warned_of() -> None:
    assert any("no lock file" in warning for warning in planned({"package.json": VITE}).warnings)


def test_an_install_that_runs_the_sources_own_scripts_depends_on_all_of_it() -> None:
    content = package(dependencies={"express": "5"}, scripts={"start": "node .", "postinstall": "node make.js"})
    assert planned({"package.json": content, **_LOCK}).steps[0].inputs == ()


def test_node_version_and_where_it_was_asked_for() -> None:
    files = {"package.json": package(scripts={"start": "node ."}, engines={"node": ">=20"})}
    assert planned(files).runtimes[0].source == "package.json: engines.node"
    assert planned({**files, ".nvmrc": "v22\n"}).runtimes[0].requested == "v22"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (package(scripts={"build": "make"}), "build script"),
        (package(dependencies={"express": "5"}), "no start script"),
        (package(dependencies={"@sveltejs/kit": "2"}, scripts={"build": "vite build"}), "adapter-node"),
        (package(devDependencies={"vite": "8"}, scripts={"build": "vite build --outDir ../../x"}), "outside"),
        ("{not json", "package.json is not valid JSON"),
        ("[1]", "package.json should hold an object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"name": "\\ud800"}', "not valid JSON"),
    ],
)
def test_problems_say_what_was_seen(content: str, said: str) -> None:
    assert said in problem({"package.json": content, "index.html": "", **_LOCK})


@pytest.mark.parametrize("value", [None, 1, "x", [], {"start": 1}, {"start": ["node"]}])
def test_wrong_types_in_a_manifest_do_no_harm(value: object) -> None:
    content = package(scripts=value, dependencies=value, engines=value, workspaces=value, main=value, packageManager=value)
    problem({"package.json": content})


def test_development_tools_alone_do_not_make_an_app() -> None:
    plan = planned({"package.json": package(devDependencies={"prettier": "3"}), "index.html": ""})
    assert plan.provider == "static"


def test_literals_are_read_from_code_only() -> None:
    text = "/* a: 'no' */ x = { 'a': `one`, b: { c: \"two\" }, d: `${e}`, f: true, g: [{ h: 'three' }] // i: 'no'\n}"
    assert literals(text) == {"a": "one", "b.c": "two", "f": "true", "g.h": "three"}
