"""Repositories that hold several packages: which are apps, where they are installed from, what is built before them."""

from __future__ import annotations

import pytest
from unit.detector.detector_sources import package, planned, problem, snapshot, web

from shipoff.detector.domain import Plan, Settings
from shipoff.detector.handlers import survey

_APP = package(name="web", dependencies={"@m/ui": "*", "express": "5"}, scripts={"start": "node server.js", "build": "tsc"})
_UI = package(name="@m/ui", main="i.js", dependencies={"@m/base": "*"}, scripts={"build": "tsc"})
_BASE = package(name="@m/base", main="i.js", devDependencies={"@m/ui": "*"}, scripts={"build": "tsc"})
_MEMBERS = {
    "apps/web/package.json": _APP,
    "packages/ui/package.json": _UI,
    "packages/ui/i.js": "",
    "packages/base/package.json": _BASE,
    "packages/old/package.json": _APP,
}
_NPM = {"package.json": package(workspaces=["apps/*", "packages/*", "!packages/old"]), "package-lock.json": "{}", **_MEMBERS}


def folders(plan: Plan) -> list[tuple[str, str]]:
    return [(step.name, step.folder) for step in plan.steps]


def test_the_only_app_of_a_workspace_is_taken_and_its_closure_is_built_in_order() -> None:
    plan = planned(_NPM)
    assert (plan.app_root, plan.workspace_root) == ("apps/web", ".")
    assert folders(plan) == [
        ("install", "."),
        ("build packages/base", "packages/base"),
        ("build packages/ui", "packages/ui"),
        ("build", ""),
    ]
    assert plan.watch_paths == ("apps/web/**", "package-lock.json", "package.json", "packages/base/**", "packages/ui/**")
    assert plan.package_manager.frozen


def test_several_apps_are_a_question_that_the_root_directory_answers() -> None:
    files = {**_NPM, "apps/admin/package.json": package(name="admin", devDependencies={"vite": "8"})}
    found = survey(snapshot(files), Settings()).outcome
    assert not isinstance(found, Plan)
    assert (found.field, [choice.value for choice in found.choices]) == ("root_directory", ["apps/admin", "apps/web"])
    plan = planned(files, root_directory="apps/admin")
    assert (plan.framework, plan.workspace_root, plan.output_dir) == ("vite", ".", "dist")
    assert [package.root for package in survey(snapshot(files), Settings()).packages] == ["apps/admin", "apps/web"]


def test_a_program_of_a_member_is_found_in_its_own_folder_or_in_the_roots() -> None:
    files = {**_NPM, "apps/web/package.json": package(name="web", dependencies={"next": "16"})}
    command = web(planned(files))
    assert command.startswith('/bin/sh -c PATH="$PWD/node_modules/.bin:$PWD/../../node_modules/.bin:$PATH"')
    assert command.endswith('exec next start -p "$PORT"')


@pytest.mark.parametrize(
    ("files", "install"),
    [
        (
            {
                "pnpm-workspace.yaml": "# ours\npackages:\n  - apps/*\n  - 'packages/**'\n",
                "pnpm-lock.yaml": "lockfileVersion: '9.0'",
            },
            "pnpm",
        ),
        ({"yarn.lock": "__metadata:\n  version: 8\n"}, "yarn"),
        ({"bun.lock": "{}"}, "bun"),
    ],
)
def test_every_package_manager_installs_from_the_root(files: dict[str, str], install: str) -> None:
    root = {"package.json": package(workspaces=["apps/*", "packages/*"]), **_MEMBERS, **files}
    plan = planned(root, root_directory="apps/web")
    assert (plan.package_manager.name, plan.steps[0].folder) == (install, ".")
    assert plan.package_manager.lockfile in plan.watch_paths


@pytest.mark.parametrize(
    ("files", "build"),
    [
        ({"turbo.json": '{"tasks": {"build": {}}}', "root": "turbo"}, "node_modules/.bin/turbo run build --filter=web"),
        ({"nx.json": "{}", "root": "nx"}, "node_modules/.bin/nx run web:build"),
    ],
)
def test_turborepo_and_nx_build_the_closure_themselves(files: dict[str, str], build: str) -> None:
    tool = files.pop("root")
    root = package(workspaces=["apps/*", "packages/*"], devDependencies={tool: "1"})
    plan = planned({**_NPM, **files, "package.json": root}, root_directory="apps/web")
    assert folders(plan) == [("install", "."), ("build", ".")]
    assert [" ".join(argv) for argv in plan.steps[1].commands] == [build]


def test_a_member_with_a_lock_file_elsewhere_is_an_app_of_its_own() -> None:
    files = {"package.json": package(), "web/package.json": _APP, "web/package-lock.json": "{}"}
    plan = planned(files, root_directory="web")
    assert (plan.workspace_root, plan.steps[0].folder) == ("web", "")


def test_an_nx_repository_without_workspaces_lists_its_projects() -> None:
    files = {"nx.json": "{}", "package.json": "{}", "apps/a/project.json": "{}", "apps/a/package.json": _APP}
    assert [item.root for item in survey(snapshot(files), Settings()).packages] == ["apps/a"]


def test_a_uv_workspace_installs_the_member_from_the_roots_lock_file() -> None:
    files = {
        "pyproject.toml": '[tool.uv.workspace]\nmembers = ["services/*"]\n',
        "uv.lock": "",
        "services/api/pyproject.toml": '[project]\nname = "api"\ndependencies = ["fastapi", "uvicorn"]\n',
        "services/api/main.py": "from fastapi import FastAPI\napp = FastAPI()\n",
    }
    plan = planned(files)
    assert (plan.app_root, plan.workspace_root, plan.framework) == ("services/api", ".", "fastapi")
    assert plan.steps[0].commands[1] == ("uv", "sync", "--frozen", "--no-dev", "--no-editable", "--package", "api")
    assert plan.steps[0].env == {"UV_PROJECT_ENVIRONMENT": "services/api/.venv"}


def test_a_cargo_workspace_builds_its_only_program() -> None:
    files = {
        "Cargo.toml": '[workspace]\nmembers = ["crates/*"]\n',
        "Cargo.lock": "",
        "crates/lib/Cargo.toml": '[package]\nname = "lib"\n',
        "crates/lib/src/lib.rs": "",
        "crates/srv/Cargo.toml": '[package]\nname = "srv"\n[dependencies]\naxum = "0.8"\n',
        "crates/srv/src/main.rs": "",
    }
    plan = planned(files)
    assert (web(plan), plan.framework) == (".shipoff/bin/srv", "axum")
    two = {**files, "crates/other/Cargo.toml": '[package]\nname = "other"\n', "crates/other/src/main.rs": ""}
    assert "other" in problem(two)


def test_a_go_workspace_lists_its_modules() -> None:
    files = {
        "go.work": "go 1.25\nuse (\n\t./api // ours\n\t./lib\n)\nuse ./jobs\n",
        "api/go.mod": "module api",
        "api/main.go": "package main",
        "lib/go.mod": "module lib",
        "lib/lib.go": "package lib",
        "jobs/go.mod": "module jobs",
        "jobs/main.go": "package main",
    }
    assert "holds 2 apps: api, jobs" in problem(files)
    assert [item.root for item in survey(snapshot(files), Settings()).packages] == ["api", "jobs"]
    assert planned(files, root_directory="api").provider == "go"
