"""Who decides: settings, then shipoff.toml, Dockerfile, Procfile, framework, script, entry file. And the questions."""

from __future__ import annotations

import pytest
from unit.detector.detector_sources import FLASK, commands, package, planned, problem, snapshot, web

from shipoff.detector.domain import Mode, Plan, Problem, Settings
from shipoff.detector.formats import jsonc_table, xml_tree, yaml_table
from shipoff.detector.handlers import Circumstances, detect

_FLASK = {"app.py": FLASK, "requirements.txt": "flask\ngunicorn"}
_TOML = """
project = "shop"
[build]
build_command = "make"
[run]
health_path = "/up"
[processes]
web = "python one.py"
worker = "python w.py"
"""


def asked(files: dict[str, str], **settings: str) -> Problem:
    found = detect(snapshot(files), Settings(**settings))
    assert isinstance(found, Problem), found
    return found


def test_the_repositorys_own_file_comes_before_procfile_and_framework() -> None:
    plan = planned({**_FLASK, "shipoff.toml": _TOML, "Procfile": "web: python two.py\nrelease: python m.py"})
    assert {process.name: process.command[-1] for process in plan.processes} == {
        "web": "one.py",
        "worker": "w.py",
        "release": "m.py",
    }
    assert commands(plan, "build") == ["make"]
    assert plan.health_path == "/up"
    assert any(item.file == "shipoff.toml" and item.key == "build.build_command" for item in plan.evidence)
    assert any(item.file == "Procfile" and "overruled by shipoff.toml" in item.rule for item in plan.evidence)


def test_the_projects_settings_come_before_the_repositorys_file() -> None:
    plan = planned({**_FLASK, "shipoff.toml": _TOML}, start_command="python three.py", build_command="make all")
    assert web(plan) == ".venv/bin/python three.py"
    assert commands(plan, "build") == ["make all"]


def test_the_repositorys_file_chooses_the_root_directory_and_the_apps_own_counts_there() -> None:
    files = {f"api/{path}": text for path, text in _FLASK.items()}
    root = {"shipoff.toml": '[build]\nroot_directory = "api"\n'}
    assert planned({**files, **root}).app_root == "api"
    plan = planned({**files, **root, "api/shipoff.toml": '[processes]\nweb = "python x.py"'})
    assert web(plan) == ".venv/bin/python x.py"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[build]\nbuild_command = 3", "build.build_command has to be a text"),
        ("[build\n", "shipoff.toml is not valid TOML"),
        ('[run]\nhealth_path = "up"', "begin with a slash"),
        ("[processes]\nweb = ['a']", "processes.web"),
        ('[build]\nroot_directory = "../x"', "leads out"),
    ],
)
def test_a_wrong_value_in_the_repositorys_file_is_named(content: str, said: str) -> None:
    assert said in problem({**_FLASK, "shipoff.toml": content})


def test_unknown_keys_are_warned_of() -> None:
    plan = planned({**_FLASK, "shipoff.toml": "[build]\ncolour = 'red'\n[deploy]\n"})
    assert {warning.split(" is ")[0] for warning in plan.warnings} == {"shipoff.toml: build.colour", "shipoff.toml: deploy"}


def test_a_dockerfile_is_preferred_where_one_can_be_built_and_can_be_turned_off() -> None:
    files = {**_FLASK, "Dockerfile": "FROM scratch", "Procfile": "web: python x.py"}
    images = Circumstances(builds_images=True)
    plan = detect(snapshot(files), Settings(), images)
    assert isinstance(plan, Plan)
    assert (plan.provider, plan.dockerfile, plan.steps) == ("docker", "Dockerfile", ())
    for settings in (Settings(dockerfile="off"), Settings(provider="python")):
        off = detect(snapshot(files), settings, images)
        assert isinstance(off, Plan)
        assert (off.provider, off.warnings) == ("python", ())
    toml = detect(snapshot({**files, "shipoff.toml": "[build]\ndockerfile = false"}), Settings(), images)
    assert isinstance(toml, Plan)
    assert toml.provider == "python"


def test_a_dockerfile_that_is_asked_for_but_cannot_be_built_is_a_question() -> None:
    found = asked({**_FLASK, "docker/Dockerfile": ""}, dockerfile="docker/Dockerfile")
    assert (found.field, [choice.value for choice in found.choices]) == ("dockerfile", ["off"])
    assert "There is no Dockerfile" in problem(_FLASK, provider="docker")


def test_two_ecosystems_are_a_question_that_the_provider_answers() -> None:
    express = {
        "package.json": package(dependencies={"express": "5"}, scripts={"start": "node x.js"}),
        "package-lock.json": "{}",
    }
    found = asked({**_FLASK, **express})
    assert (found.field, [choice.value for choice in found.choices]) == ("provider", ["python", "node"])
    assert planned({**_FLASK, **express}, provider="node").framework == "express"
    assert planned({**_FLASK, **express, "shipoff.toml": '[build]\nprovider = "python"'}).framework == "flask"
    assert asked(_FLASK, provider="ruby").field == "provider"


@pytest.mark.parametrize(
    ("files", "choices", "choice"),
    [
        (
            {"package.json": package(devDependencies={"vite": "8"}), "yarn.lock": "", "pnpm-lock.yaml": ""},
            ["pnpm", "yarn"],
            "pnpm",
        ),
        ({**_FLASK, "pyproject.toml": "[project]\nname='x'", "uv.lock": "", "poetry.lock": ""}, ["poetry", "uv"], "poetry"),
    ],
)
def test_several_lock_files_are_a_question_that_the_package_manager_answers(
    files: dict[str, str], choices: list[str], choice: str
) -> None:
    found = asked(files)
    assert (found.field, [item.value for item in found.choices]) == ("package_manager", choices)
    assert planned(files, package_manager=choice).package_manager.name == choice


def test_the_tool_that_pyproject_is_written_for_decides_between_lock_files() -> None:
    files = {**_FLASK, "pyproject.toml": "[tool.poetry.dependencies]\nflask='*'", "uv.lock": "", "poetry.lock": ""}
    assert planned(files).package_manager.name == "poetry"


def test_a_framework_that_the_build_script_runs_comes_before_others_that_are_there() -> None:
    content = package(
        devDependencies={"storybook": "9", "vitepress": "1", "vite": "8"}, scripts={"build": "vitepress build docs"}
    )
    plan = planned({"package.json": content, "package-lock.json": "{}"})
    assert (plan.framework, plan.output_dir, plan.mode) == ("vitepress", "docs/.vitepress/dist", Mode.STATIC)


def test_a_release_process_alone_does_not_take_the_web_process_away() -> None:
    plan = planned({**_FLASK, "Procfile": "release: python migrate.py"})
    assert [process.name for process in plan.processes] == ["release", "web"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"a": "http://x", /* b */ "c": [1, 2,], } // d', {"a": "http://x", "c": [1, 2]}),
        ('{"a": "/* no */ ,] //"}', {"a": "/* no */ ,] //"}),
        ("{", None),
        ("[1]", None),
    ],
)
def test_json_with_comments(content: str, expected: dict[str, object] | None) -> None:
    reading = jsonc_table(snapshot({"deno.jsonc": content}), "deno.jsonc")
    assert (reading.table if expected is not None else bool(reading.unreadable)) == (expected if expected is not None else True)


@pytest.mark.parametrize(
    "content", ["[" * 50_000, "a: " + "- " * 20_000, "a: &a [x]\nb: *a\n: :", "!!python/object:os.system x", "\t- a"]
)
def test_hostile_yaml_is_said_to_be_unreadable(content: str) -> None:
    assert yaml_table(snapshot({"pnpm-workspace.yaml": content}), "pnpm-workspace.yaml").unreadable


@pytest.mark.parametrize("content", ['<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "<a>", "<a/><b/>", "", "&#0;"])
def test_hostile_xml_is_not_read(content: str) -> None:
    assert xml_tree(snapshot({"pom.xml": content}), "pom.xml") is None


@pytest.mark.parametrize(
    ("files", "framework", "output", "build"),
    [
        ({"config.toml": "baseURL = 'https://x.y'"}, "hugo", "public", "hugo --gc --minify"),
        ({"hugo.yaml": "publishDir: out"}, "hugo", "out", "hugo --gc --minify"),
        ({"config.toml": "base_url = 'https://x.y'"}, "zola", "public", "zola build"),
        ({"_config.yml": "title: x", "Gemfile": "gem 'jekyll'"}, "jekyll", "_site", "bundle exec jekyll build"),
        ({"config.rb": "", "Gemfile": "gem 'middleman'"}, "middleman", "build", "bundle exec middleman build"),
    ],
)
def test_site_generators_of_other_languages(files: dict[str, str], framework: str, output: str, build: str) -> None:
    plan = planned(files)
    assert (plan.framework, plan.output_dir, plan.mode) == (framework, output, Mode.STATIC)
    assert commands(plan, "build") == [build]


def test_a_staticfile_names_the_folder_and_the_fallback() -> None:
    plan = planned({"Staticfile": "root: hello\npushstate: enabled\n", "hello/index.html": ""})
    assert (plan.mode, plan.output_dir) == (Mode.SPA, "hello")
