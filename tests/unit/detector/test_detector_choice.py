"""What settings, Procfile and several ecosystems in one source lead to, and that nothing makes detection raise."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.detector.detector_sources import FLASK, commands, package, planned, problem, web

from shipoff.detector.commands import argv
from shipoff.detector.domain import Mode, Plan, Settings, Snapshot, folder_of, plan_json
from shipoff.detector.handlers import detect
from shipoff.detector.server import plan_message

_PYTHON = {"requirements.txt": "flask\ngunicorn", "app.py": FLASK}
_EXPRESS = {
    "package.json": package(dependencies={"express": "5"}, scripts={"start": "node server.js"}),
    "package-lock.json": "",
}
_VITE = {"package.json": package(devDependencies={"vite": "8"}, scripts={"build": "vite build"}), "package-lock.json": ""}
VITE_BYTES = _VITE["package.json"].encode()


def test_a_release_command_of_a_static_site_is_not_run_and_the_plan_says_so():
    plan = planned({"index.html": "<h1>", "Procfile": "release: ./migrate"})
    assert any("the release command is not run" in warning for warning in plan.warnings)


def test_a_start_command_wins_over_procfile_and_detection() -> None:
    plan = planned(
        {**_PYTHON, "Procfile": "web: python other.py\nworker: celery -A app worker"}, start_command="gunicorn x:y -b :$PORT"
    )
    assert web(plan) == ".venv/bin/python -m gunicorn x:y -b :$PORT"
    assert [process.name for process in plan.processes] == ["web", "worker"]


def test_procfile_wins_over_detection() -> None:
    plan = planned({**_PYTHON, "Procfile": "# comment\nweb: python app.py\nnonsense\n"})
    assert web(plan) == ".venv/bin/python app.py"
    assert any("line 3" in warning for warning in plan.warnings)


def test_a_procfile_without_web_makes_a_worker() -> None:
    plan = planned({**_PYTHON, "Procfile": "clock: python clock.py"})
    assert plan.mode is Mode.WORKER
    assert [process.name for process in plan.processes] == ["clock"]


def test_a_procfile_alone_is_enough() -> None:
    plan = planned({"Procfile": "web: ./serve --port $PORT", "serve": ""})
    assert (plan.provider, plan.mode, web(plan)) == ("procfile", Mode.SERVER, "./serve --port $PORT")


def test_install_and_build_commands_replace_what_was_found() -> None:
    plan = planned(_PYTHON, install_command="pip install -r requirements.txt", build_command="python make.py | tee log")
    assert commands(plan, "install") == [
        "uv venv --relocatable --clear --python python3 --seed .venv",
        "uv pip install --python .venv/bin/python -r requirements.txt",
    ]
    assert commands(plan, "build") == ['/bin/sh -c PATH="$PWD/.venv/bin:$PATH"; export PATH; python make.py | tee log']


def test_an_output_directory_makes_a_static_site() -> None:
    plan = planned({"package.json": package(scripts={"build": "make"}), "x": ""}, output_directory="./site/")
    assert (plan.mode, plan.output_dir, plan.processes) == (Mode.STATIC, "site", ())


def test_an_output_directory_keeps_a_single_page_app_one() -> None:
    plan = planned(_VITE, output_directory="elsewhere")
    assert (plan.mode, plan.output_dir) == (Mode.SPA, "elsewhere")


def test_a_start_command_makes_a_server_of_a_site() -> None:
    plan = planned(_VITE, start_command="npx serve dist")
    assert (plan.mode, plan.output_dir, web(plan)) == (Mode.SERVER, "", "npx serve dist")


def test_root_directory() -> None:
    files = {f"apps/web/{path}": text for path, text in _VITE.items()}
    assert "apps/web" in problem(files)
    plan = planned(files, root_directory="/apps/web/".strip("/"))
    assert (plan.app_root, plan.framework) == ("apps/web", "vite")


@pytest.mark.parametrize("field", ["root_directory", "output_directory"])
@pytest.mark.parametrize("folder", ["..", "a/../../b", "/etc"])
def test_folders_outside_of_the_source_are_refused(field: str, folder: str) -> None:
    assert field in problem(_VITE, **{field: folder})


def test_a_root_directory_that_does_not_exist_is_named() -> None:
    assert "'nowhere'" in problem(_VITE, root_directory="nowhere")


def test_two_servers_are_a_question_which_a_start_command_answers() -> None:
    assert "more than one app" in problem({**_PYTHON, **_EXPRESS})
    assert planned({**_PYTHON, **_EXPRESS}, start_command="node server.js").provider == "node"
    assert planned({**_PYTHON, **_EXPRESS, "Procfile": "web: gunicorn app:app"}).provider == "python"


def test_a_server_with_a_front_end_beside_it_names_the_alternative() -> None:
    plan = planned({**_PYTHON, **_VITE})
    assert plan.provider == "python"
    assert [(other.provider, other.framework) for other in plan.alternatives] == [("node", "vite")]


def test_a_dockerfile_is_noted_and_alone_a_problem() -> None:
    plan = planned({**_PYTHON, "Dockerfile": "FROM scratch"})
    assert any(warning.startswith("Dockerfile is not used") for warning in plan.warnings)
    assert "Dockerfile was seen" in problem({"Dockerfile": "FROM scratch"})


@pytest.mark.parametrize(("files", "said"), [({"gleam.toml": ""}, "Gleam"), ({}, "no files"), ({"notes.txt": ""}, "notes.txt")])
def test_nothing_recognised_says_what_was_seen_and_what_to_add(files: dict[str, str], said: str) -> None:
    assert said in problem(files)


def test_static_files_in_the_root_or_in_public() -> None:
    assert planned({"index.html": ""}).output_dir == "."
    assert planned({"public/index.html": ""}).output_dir == "public"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("node server.js", ("node", "server.js")),
        ("serve -p $PORT --host 'a b'", ("serve", "-p", "$PORT", "--host", "a b")),
        ("serve -b 0:${PORT}", ("serve", "-b", "0:${PORT}")),
        ("a && b", ("/bin/sh", "-c", "a && b")),
        ("a -p ${PORT:-1}", ("/bin/sh", "-c", "a -p ${PORT:-1}")),
        ("a $PORTS", ("/bin/sh", "-c", "a $PORTS")),
        ("A=1 b", ("/bin/sh", "-c", "A=1 b")),
        ("exec a", ("/bin/sh", "-c", "exec a")),
        ("a 'b", None),
        ("  ", None),
        ("a \0", None),
    ],
)
def test_commands_become_argument_lists(command: str, expected: tuple[str, ...] | None) -> None:
    assert argv(command) == expected


def test_a_quotation_mark_that_is_not_closed_is_named() -> None:
    assert "start_command" in problem(_PYTHON, start_command="python 'app.py")
    assert "Procfile: web" in problem({**_PYTHON, "Procfile": "web: python 'app.py"})


@pytest.mark.parametrize("text", ["/", ".", "", "a/./b/"])
def test_folders_are_normalised(text: str) -> None:
    assert folder_of(text) in (".", "a/b")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
_NAMES = st.sampled_from(
    [
        "package.json",
        "package-lock.json",
        "yarn.lock",
        "pnpm-lock.yaml",
        "pyproject.toml",
        "uv.lock",
        "poetry.lock",
        "requirements.txt",
        "app.py",
        "manage.py",
        "main.py",
        "src/x/main.py",
        "x/__init__.py",
        "Procfile",
        "index.html",
        "vite.config.ts",
        "angular.json",
        ".python-version",
        ".nvmrc",
        "server.js",
        "Dockerfile",
        "a/package.json",
        "pnpm-workspace.yaml",
        "shipoff.toml",
        "turbo.json",
        "deno.json",
        "deno.lock",
        "go.mod",
        "go.work",
        "main.go",
        "Cargo.toml",
        "a/Cargo.toml",
        "src/main.rs",
        "composer.json",
        "index.php",
        "Gemfile",
        "Gemfile.lock",
        "pom.xml",
        "build.gradle",
        "settings.gradle.kts",
        "x.csproj",
        "global.json",
        "mix.exs",
        "mise.toml",
        ".tool-versions",
        "pdm.lock",
        "Pipfile",
        "Pipfile.lock",
        "Staticfile",
        "start.sh",
        "config.toml",
        "_config.yml",
        "app.json",
    ]
)
_KEYS = ("name", "scripts", "dependencies", "devDependencies", "engines", "main", "workspaces", "packageManager")
_MANIFEST = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("name", "scripts", "dependencies", "devDependencies", "engines", "main", "workspaces", "packageManager"), _JSON
    ),
) | st.fixed_dictionaries(
    {
        "scripts": st.dictionaries(st.sampled_from(["start", "build", "prestart"]), st.text()),
        "dependencies": st.dictionaries(st.sampled_from(["express", "vite", "next", "astro"]), _JSON),
    }
)
_TOML = st.sampled_from(
    [
        "[project]\ndependencies = ['flask', 1, '((']",
        "[project]\ndependencies = 3",
        "[tool.poetry.dependencies]\npython = 1\nx = {}",
        "[[package]]\nname = 1",
        "[[package]]\ndependencies = 2",
        "[workspace]\nmembers = [1, 'a', '**', '../x']\n[package]\nname = 'a'\n[[bin]]\nname = 3",
        "[tool.uv.workspace]\nmembers = 3\n[project.scripts]\nx = 1",
        "[packages]\nflask = {version = 1}\n[requires]\npython_version = 3",
        "[build]\nroot_directory = 'a'\nprovider = 'x'\n[processes]\nweb = 'python \\''",
        "[tools]\nnode = [{}]\npython = {version = 3}",
    ]
)
_OTHER = st.sampled_from(
    [
        "packages: [a, '*', '**/**', 1]\nroot: [..]",
        "module x\ngo\nrequire (\n  a v1\nuse ./a",
        "<Project Sdk='Microsoft.NET.Sdk.Web'><PropertyGroup><OutputType/></PropertyGroup></Project>",
        "<project><parent><groupId>org.springframework.boot</groupId></parent><build/></project>",
        "plugins { id 'application' }\ninclude ':a', 'b'\nrootProject.name = 'x'",
        "gem 'rails'\nruby 'x'\nGEM\n  specs:\n    puma (1)\nBUNDLED WITH",
        'defmodule X do app: :x, {:phoenix, "1"} end',
        "node x\ngolang",
    ]
).map(str.encode)
_CONTENT = (
    _OTHER
    | st.binary()
    | st.text().map(str.encode)
    | (_JSON | _MANIFEST).map(lambda value: json.dumps(value).encode())
    | _TOML.map(str.encode)
)
_PYTHON_TEXT = st.sampled_from(
    [FLASK, "x = " * 50 + "1", "(" * 300, "def create_app(): return Flask()", "from . import app", "\0"]
).map(str.encode)
_SETTINGS = st.builds(Settings, *[st.just("") | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)] * 8)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(_NAMES | st.text(st.characters(exclude_categories=["Cs"])), _CONTENT | _PYTHON_TEXT, max_size=8), _SETTINGS
)
def test_detection_never_raises_and_repeats_itself(files: dict[str, bytes], given_settings: Settings) -> None:
    snapshot = Snapshot(tuple(files), files)
    found = detect(snapshot, given_settings)
    assert found == detect(Snapshot(tuple(reversed(files)), dict(reversed(files.items()))), given_settings)
    if isinstance(found, Plan):
        plan_json(found).encode()
        plan_message(found).SerializeToString()
    else:
        assert found.message.encode()


@pytest.mark.parametrize(
    "files",
    [
        {"app.py": b"(" * 200_000},
        {"app.py": b"a" + b".b" * 100_000},
        {"app.py": b"import a\nx = [1]\n" * 8000, "main.py": b"import a\nx = [1]\n" * 8000},
        {"pyproject.toml": b"a" + b".a" * 100_000 + b" = 1"},
        {"pyproject.toml": b"a = " + b"[" * 100_000},
        {"uv.lock": b"a = " + b"[" * 100_000, "pyproject.toml": b"[project]"},
        {"requirements.txt": b"a==1\n" * 200_000},
        {"requirements.txt": b"a" + b" " * 400_000 + b"b"},
        {"Procfile": b"a" + b" " * 200_000 + b"b"},
        {"package.json": VITE_BYTES, "package-lock.json": b"", "vite.config.js": b"/*" * 30_000},
        {"deno.json": b"/*" * 100_000, "main.ts": b""},
        {"deno.json": b'{"a": "' + b"\\\\" * 100_000, "main.ts": b""},
        {"deno.json": b"," + b" " * 200_000 + b"x", "main.ts": b""},
        {"package.json": b'{"workspaces": ["' + b"*/" * 100 + b'"]}', "a/" * 30 + "package.json": b"{}"},
        {
            "pnpm-workspace.yaml": b"packages:\n" + b"- a*b*c*d*e*\n" * 4000,
            "package.json": b"{}",
            "a" * 200 + "/package.json": b"{}",
        },
        {"pom.xml": b"<a>" * 80_000},
        {"Gemfile.lock": b"    a (" + b" " * 200_000, "Gemfile": b"gem" + b" " * 200_000},
        {"mix.exs": b'"' * 100_000 + b"app: :x" + b"{:" * 50_000},
        {"go.mod": b"require (\n" * 20_000, "main.go": b"package main"},
        {"build.gradle": b"id" + b" " * 200_000, "settings.gradle": b"include " + b"'a'," * 50_000},
        {"package.json": VITE_BYTES, "package-lock.json": b"", "vite.config.js": b'a:{b:"x",' * 7000},
    ],
)
@pytest.mark.timeout(30)
def test_hostile_files_take_no_time_to_speak_of(files: dict[str, bytes]) -> None:
    assert detect(Snapshot(tuple(files), files), Settings())


def _source_of(count: int) -> Snapshot:
    """A workspace of this many files, with manifests of 256 KiB and many members."""
    paths = [f"packages/p{number % 300}/src/deep/er/file{number}.js" for number in range(count)]
    members = {f"packages/p{number}/package.json": VITE_BYTES for number in range(300)}
    contents = {
        "package.json": json.dumps({"workspaces": ["packages/*"], "x": ["y" * 100] * 2400}).encode(),
        "requirements.txt": b"".join(b"package-%d==1.0\n" % number for number in range(14_000)),
        "app.py": (FLASK + "x = 1\n" * 40_000).encode(),
        "README.md": b"",
        **members,
    }
    return Snapshot((*paths, *contents), contents)


@pytest.mark.timeout(60)
def test_a_large_source_takes_time_by_its_size_alone() -> None:
    def cpu_s(count: int) -> float:
        source = _source_of(count)
        began = time.process_time()
        detect(source, Settings())
        return time.process_time() - began

    small = cpu_s(20_000)
    large = cpu_s(100_000)
    # Five times as many paths; what is read of them stays the same.
    assert large < 5 * small * 2, (small, large)
    assert large < 10
