"""A minimal source of each framework, and the plan it gets: a row a framework."""

# ruff: noqa: E501 - a row a line
from __future__ import annotations

import pytest
from unit.detector.detector_sources import commands, package, planned, web

from shipoff.detector.domain import Mode
from shipoff.detector.providers.node_table import FRAMEWORKS, SERVERS, Framework

_LOCK = {"package-lock.json": "{}"}
# What a framework needs besides its own package before it is planned without a question.
_COMPANIONS = {
    "sveltekit": {"@sveltejs/adapter-node": "5"},
    "tanstack-start": {"nitro": "3"},
}


def _sources() -> list[Framework]:
    return [found for found in FRAMEWORKS if not found.missing]


@pytest.mark.parametrize("found", _sources(), ids=lambda found: found.name)
def test_a_web_framework_is_known_by_its_package(found: Framework) -> None:
    dependencies = {found.dependencies[0]: "1", **dict.fromkeys(found.needs, "1"), **_COMPANIONS.get(found.name, {})}
    plan = planned({"package.json": package(dependencies=dependencies), **_LOCK})
    assert (plan.framework, plan.mode) == (found.name, found.mode)
    assert commands(plan, "build") == [" ".join(found.build)]
    assert plan.output_dir == (found.output if found.mode.files_only else "")
    assert [" ".join(process.command) for process in plan.processes] == ([" ".join(found.start)] if found.start else [])
    assert plan.public_build_env == tuple(sorted(found.public))


@pytest.mark.parametrize("found", [found for found in _sources() if found.configs], ids=lambda found: found.name)
def test_a_web_framework_is_known_by_its_configuration(found: Framework) -> None:
    plan = planned({"package.json": package(scripts={"build": "make"}), found.configs[0]: "", **_LOCK})
    assert plan.framework == found.name
    assert any(item.file == found.configs[0] for item in plan.evidence)


@pytest.mark.parametrize("dependency", sorted(SERVERS))
def test_a_server_library_is_run_by_the_start_script(dependency: str) -> None:
    plan = planned({"package.json": package(dependencies={dependency: "1"}, scripts={"start": "node x.js"}), **_LOCK})
    assert (plan.framework, plan.mode, web(plan)) == (SERVERS[dependency], Mode.SERVER, "node x.js")


def _gem(name: str, *others: str) -> dict[str, str]:
    names = "".join(f"    {gem} (1.0)\n" for gem in (name, *others))
    return {"Gemfile": f"gem '{name}'\n", "Gemfile.lock": f"GEM\n  specs:\n{names}\nBUNDLED WITH\n   2.6.2\n"}


def _pom(group: str) -> str:
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><artifactId>shop</artifactId><version>1.0</version>'
        f"<properties><java.version>21</java.version></properties><dependencies><dependency><groupId>{group}</groupId>"
        "</dependency></dependencies></project>"
    )


_MIX = 'defmodule X do\n  def project, do: [app: :shop, elixir: "~> 1.18", deps: deps()]\n  # {:fake, "1"}\n  defp deps, do: [%s]\nend\n'
_PHOENIX = _MIX % '{:phoenix, "~> 1.8"}'
_CARGO = '[package]\nname = "shop"\nversion = "1.0.0"\nrust-version = "1.85"\n[dependencies]\n%s = "1"\n'
_CSPROJ = (
    '<Project Sdk="Microsoft.NET.Sdk%s"><PropertyGroup><TargetFramework>net9.0</TargetFramework>%s</PropertyGroup></Project>'
)
_PY = "from {0} import {1}\napp = {1}()\n"

# files, provider, framework, package manager, mode, what the web process starts with
ROWS = [
    ({"app.py": _PY.format("flask", "Flask"), "requirements.txt": "flask"}, "python", "flask", "pip", ".venv/bin/python -m gunicorn"),
    ({"app.py": _PY.format("fastapi", "FastAPI"), "requirements.txt": "fastapi"}, "python", "fastapi", "pip", ".venv/bin/python -m uvicorn"),
    ({"app.py": _PY.format("litestar", "Litestar"), "requirements.txt": "litestar"}, "python", "litestar", "pip", ".venv/bin/python -m uvicorn"),
    ({"app.py": _PY.format("starlette.applications", "Starlette"), "requirements.txt": "starlette"}, "python", "starlette", "pip", ".venv/bin/python -m uvicorn app:app"),
    ({"main.py": "from fasthtml.common import *\napp, rt = fast_app()\n", "requirements.txt": "python-fasthtml"}, "python", "fasthtml", "pip", ".venv/bin/python -m uvicorn main:app"),
    ({"streamlit_app.py": "import streamlit as st\n", "requirements.txt": "streamlit"}, "python", "streamlit", "pip", ".venv/bin/python -m streamlit run streamlit_app.py --server.port=$PORT"),
    ({"manage.py": 'import os\nos.environ.setdefault("DJANGO_SETTINGS_MODULE", "s.settings")', "s/settings.py": "", "s/wsgi.py": "", "requirements.txt": "django"}, "python", "django", "pip", ".venv/bin/python -m gunicorn s.wsgi:application"),
    ({"go.mod": "module x\ngo 1.24\nrequire (\n\tgithub.com/gin-gonic/gin v1.10.0 // indirect\n)\n", "go.sum": "", "main.go": "package main\n"}, "go", "gin", "go", ".shipoff/bin/app"),
    ({"composer.json": '{"require": {"php": "^8.3", "laravel/framework": "^12"}}', "composer.lock": "{}", "artisan": "", "public/index.php": ""}, "php", "laravel", "composer", "php artisan serve --host $HOST --port $PORT"),
    ({"composer.json": '{"require": {"symfony/framework-bundle": "7"}}', "public/index.php": ""}, "php", "symfony", "composer", "php -S $HOST:$PORT -t public"),
    ({"index.php": ""}, "php", "", "", "php -S $HOST:$PORT -t ."),
    ({**_gem("rails", "propshaft"), "config.ru": ""}, "ruby", "rails", "bundler", "bundle exec rails server -b $HOST -p $PORT"),
    ({**_gem("sinatra"), "app.rb": ""}, "ruby", "sinatra", "bundler", "bundle exec ruby app.rb -o $HOST -p $PORT"),
    ({**_gem("sinatra", "puma"), "config.ru": ""}, "ruby", "sinatra", "bundler", "bundle exec puma -b tcp://$HOST:$PORT"),
    ({"pom.xml": _pom("org.springframework.boot")}, "java", "spring-boot", "maven", "java -Dserver.port=$PORT -Dserver.address=$HOST -jar target/shop-1.0.jar"),
    ({"build.gradle.kts": 'plugins {\n  id("org.springframework.boot") version "3"\n}\n', "gradlew": ""}, "java", "spring-boot", "gradle", "/bin/sh -c exec java"),
    ({"settings.gradle": "rootProject.name = 'shop'\ninclude('app')\n", "app/build.gradle": "plugins {\n  id 'application'\n}\n"}, "java", "", "gradle", "app/build/install/app/bin/app"),
    ({"Cargo.toml": _CARGO % "axum", "Cargo.lock": "", "src/main.rs": ""}, "rust", "axum", "cargo", ".shipoff/bin/shop"),
    ({"Cargo.toml": _CARGO % "actix-web", "src/main.rs": ""}, "rust", "actix-web", "cargo", ".shipoff/bin/shop"),
    ({"Shop.csproj": _CSPROJ % (".Web", "")}, "dotnet", "aspnetcore", "nuget", "dotnet .shipoff/out/Shop.dll --urls http://$HOST:$PORT"),
    ({"Tool.csproj": _CSPROJ % ("", "<OutputType>Exe</OutputType>")}, "dotnet", "", "nuget", "dotnet .shipoff/out/Tool.dll"),
    ({"deno.jsonc": '{ // ours\n "tasks": {"start": "deno run -A main.ts",}, }', "main.ts": ""}, "deno", "", "deno", "deno task start"),
    ({"deno.lock": "{}", "main.ts": ""}, "deno", "", "deno", "deno run --allow-all --vendor --node-modules-dir=auto main.ts"),
    ({"mix.exs": _PHOENIX, "mix.lock": ""}, "elixir", "phoenix", "mix", "env PHX_SERVER=true _build/prod/rel/shop/bin/shop start"),
    ({"mix.exs": _MIX % ""}, "elixir", "", "mix", "_build/prod/rel/shop/bin/shop start"),
    ({"start.sh": "#!/usr/bin/env bash\n"}, "shell", "", "", "bash start.sh"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "provider", "framework", "manager", "starts"), ROWS, ids=lambda value: str(value)[:20])
def test_an_ecosystem_gets_its_plan(files: dict[str, str], provider: str, framework: str, manager: str, starts: str) -> None:
    plan = planned(files)
    assert (plan.provider, plan.framework, plan.package_manager.name, plan.mode) == (provider, framework, manager, Mode.SERVER)
    assert web(plan).startswith(starts)
    assert plan.evidence


def test_a_worker_of_dotnet_listens_on_nothing() -> None:
    plan = planned({"Jobs.csproj": _CSPROJ % (".Worker", "")})
    assert (plan.mode, [process.name for process in plan.processes]) == (Mode.WORKER, ["worker"])


@pytest.mark.parametrize(
    ("files", "name", "requested", "source"),
    [
        (
            {"go.mod": "module x\ngo 1.24.1\ntoolchain go1.25.0\n", "main.go": "package main"},
            "go",
            "1.25.0",
            "go.mod: toolchain",
        ),
        ({"index.php": "", "composer.json": '{"require": {"php": ">=8.2"}}'}, "php", ">=8.2", "composer.json: require.php"),
        ({"app.rb": "", "Gemfile": "ruby '3.4.1' # ours\n"}, "ruby", "3.4.1", "Gemfile: ruby"),
        ({"app.rb": "", "Gemfile": "", ".ruby-version": "ruby-3.3.0\n"}, "ruby", "3.3.0", ".ruby-version"),
        ({"pom.xml": _pom("x")}, "java", "21", "pom.xml: properties.java.version"),
        ({"Cargo.toml": _CARGO % "x", "src/main.rs": "", "rust-toolchain": "1.88.0"}, "rust", "1.88.0", "rust-toolchain"),
        ({"S.csproj": _CSPROJ % (".Web", "")}, "dotnet", "9.0", "S.csproj: TargetFramework"),
        ({"mix.exs": _PHOENIX}, "elixir", "~> 1.18", "mix.exs: elixir"),
        ({"mix.exs": _PHOENIX, ".tool-versions": "# x\nelixir 1.18.1-otp-27\n"}, "elixir", "1.18.1-otp-27", ".tool-versions"),
        (
            {"server.js": "", "package.json": "{}", "mise.toml": '[tools]\nnode = ["22", "20"]'},
            "node",
            "22",
            "mise.toml: tools.node",
        ),
        ({"server.js": "", "package.json": "{}", ".tool-versions": "nodejs 20.1.0"}, "node", "20.1.0", ".tool-versions"),
        ({"server.js": "", "package.json": '{"volta": {"node": "22.1.0"}}'}, "node", "22.1.0", "package.json: volta.node"),
        (
            {"main.py": "", "requirements.txt": "", "mise.toml": "[tools]\npython = 3.12"},
            "python",
            "3.12",
            "mise.toml: tools.python",
        ),
        (
            {"main.py": "", "Pipfile": "[requires]\npython_version = '3.13'"},
            "python",
            "3.13",
            "Pipfile: requires.python_version",
        ),
    ],
)
def test_a_version_comes_with_its_source(files: dict[str, str], name: str, requested: str, source: str) -> None:
    found = {item.name: (item.requested, item.source) for item in planned(files).runtimes}
    assert found[name] == (requested, source)


@pytest.mark.parametrize(
    ("files", "manager", "install"),
    [
        (
            {"pdm.lock": "[metadata]\nstrategy = ['inherit_metadata']", "pyproject.toml": "[project]\nname='x'"},
            "pdm",
            "pdm export --prod",
        ),
        (
            {"Pipfile": "[packages]\nflask='*'", "Pipfile.lock": '{"default": {"flask": {}}}'},
            "pipenv",
            "pipenv requirements --hash",
        ),
        ({"Pipfile": "[packages]\nflask='>=3'\nx={path='.'}"}, "pipenv", "pip install --python .venv/bin/python -- flask>=3"),
        (
            {"bun.lock": "", "package.json": package(dependencies={"vite": "8"})},
            "bun",
            "npx --yes bun@1 install --frozen-lockfile",
        ),
        (
            {"bun.lock": "", "package.json": package(dependencies={"x": "1"}, scripts={"start": "bun a.ts"})},
            "bun",
            "npm install --prefix .bun",
        ),
    ],
)
def test_the_other_package_managers(files: dict[str, str], manager: str, install: str) -> None:
    plan = planned({"main.py": "print()", **files} if "package.json" not in files else files)
    assert plan.package_manager.name == manager
    assert any(install in command for command in commands(plan, "install"))


def test_a_pdm_lock_that_cannot_be_exported_is_said_not_to_be_used() -> None:
    plan = planned(
        {
            "main.py": "",
            "pdm.lock": "[metadata]\nstrategy = []",
            "pyproject.toml": "[project]\nname='x'\ndependencies=['flask']",
        }
    )
    assert (plan.package_manager.name, plan.package_manager.frozen) == ("pdm", False)
    assert any("inherit_metadata" in warning for warning in plan.warnings)
