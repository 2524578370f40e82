"""Python sources and the plans they get."""

from __future__ import annotations

import pytest
from unit.detector.detector_sources import FASTAPI, FLASK, commands, planned, problem, web

from shipoff.detector.providers.python_poetry import pep440

_GUNICORN = "--bind $HOST:$PORT --threads 8"
_UVICORN = "--host $HOST --port $PORT"


@pytest.mark.parametrize(
    ("files", "command"),
    [
        ({"app.py": FLASK}, f"gunicorn app:app {_GUNICORN}"),
        ({"app.py": "import flask as f\nserver = f.Flask('x')\n"}, f"gunicorn app:server {_GUNICORN}"),
        (
            {"main.py": "try:\n  from flask import Flask as F\nfinally: pass\napplication: F = F('x')"},
            f"gunicorn main:application {_GUNICORN}",
        ),
        (
            {"shop/__init__.py": "from flask import Flask\ndef create_app():\n  app = Flask('x')\n  return app"},
            f"gunicorn shop:create_app() {_GUNICORN}",
        ),
        (
            {
                "shop/__init__.py": "from flask import Flask\ndef create_app():\n  return Flask('x')",
                "wsgi.py": "from shop import create_app\napp = create_app()",
            },
            f"gunicorn wsgi:app {_GUNICORN}",
        ),
        ({"core/web.py": FLASK, "core/__init__.py": "from .web import app"}, f"gunicorn core:app {_GUNICORN}"),
        ({"main.py": FASTAPI}, f"uvicorn main:app {_UVICORN}"),
        ({"app/main.py": FASTAPI}, f"uvicorn app.main:app {_UVICORN}"),
        ({"src/main.py": FASTAPI}, f"uvicorn main:app {_UVICORN} --app-dir src"),
        ({"src/api/main.py": FASTAPI}, f"uvicorn api.main:app {_UVICORN} --app-dir src"),
        (
            {"main.py": "from fastapi import FastAPI\ndef create_app(debug=False):\n  return FastAPI()"},
            f"uvicorn main:create_app {_UVICORN} --factory",
        ),
        ({"main.py": FASTAPI, "tests/app.py": FLASK}, f"uvicorn main:app {_UVICORN}"),
    ],
)
def test_application_is_found_in_the_syntax_tree(files: dict[str, str], command: str) -> None:
    plan = planned({"requirements.txt": "flask\nfastapi\ngunicorn\nuvicorn\n", **files})
    assert web(plan) == f".venv/bin/python -m {command}"


@pytest.mark.parametrize(
    "text",
    [
        "# from flask import Flask\n# app = Flask(__name__)\nprint('app = Flask(__name__)')",
        "if __name__ == '__main__':\n  from flask import Flask\n  app = Flask('x')",
        "from flask import Flask\ndef create_app(config):\n  return Flask('x')",
    ],
)
def test_what_only_looks_like_an_application_is_run_as_a_script(text: str) -> None:
    assert web(planned({"requirements.txt": "flask", "main.py": text})) == ".venv/bin/python main.py"


def test_requirements_are_installed_into_a_relocatable_environment() -> None:
    plan = planned({"requirements.txt": "flask\ngunicorn", "app.py": FLASK})
    assert commands(plan, "install") == [
        "uv venv --relocatable --clear --python python3 .venv",
        "uv pip install --python .venv/bin/python --requirement requirements.txt",
    ]
    assert plan.steps[0].inputs == ("requirements.txt",)


def test_a_missing_server_is_added_and_said() -> None:
    plan = planned({"requirements.txt": "Flask==3.1", "app.py": FLASK})
    assert commands(plan, "install")[-1].endswith(".venv/bin/python gunicorn")
    assert any("names no server" in warning for warning in plan.warnings)


@pytest.mark.parametrize(
    "line", ["uvicorn[standard]==0.54 --hash=sha256:00", "fastapi[standard]", "Uvicorn ; python_version > '3'", "-r more.txt"]
)
def test_a_server_that_the_requirements_bring_is_not_added(line: str) -> None:
    plan = planned(
        {"requirements.txt": f"fastapi\n{line}" if "fastapi" not in line else line, "more.txt": "uvicorn", "main.py": FASTAPI}
    )
    assert len(commands(plan, "install")) == 2
    assert plan.warnings == ()


def test_uv_lock_goes_before_requirements_and_tells_what_comes_transitively() -> None:
    files = {
        "pyproject.toml": '[project]\nname="x"\nrequires-python=">=3.12"\ndependencies=["fastapi","kit"]',
        "uv.lock": '[[package]]\nname="kit"\ndependencies=[{name="uvicorn"}]\n[[package]]\nname="uvicorn"',
        "requirements.txt": "fastapi",
        "main.py": FASTAPI,
    }
    plan = planned(files)
    assert commands(plan, "install") == [
        "uv venv --relocatable --clear --python >=3.12 .venv",
        "uv sync --frozen --no-dev --no-editable",
    ]
    assert (plan.package_manager.name, plan.package_manager.frozen) == ("uv", True)
    assert plan.runtimes[0].source == "pyproject.toml: project.requires-python"


def test_poetry_lock_is_exported() -> None:
    files = {"pyproject.toml": '[tool.poetry.dependencies]\npython="^3.11"\nflask="*"', "poetry.lock": "", "app.py": FLASK}
    exported, installed = commands(planned(files), "install")[1:3]
    assert "poetry export" in exported
    assert installed.endswith("--requirement .venv/requirements.txt")


def test_poetry_without_a_lock_is_translated_with_a_warning() -> None:
    table = """[tool.poetry.dependencies]
python = "^3.11"
fastapi = { version = "^0.115", extras = ["standard"] }
own = { path = "../own" }
extra = { version = "1", optional = true }
"""
    plan = planned({"pyproject.toml": table, "main.py": FASTAPI})
    assert commands(plan, "install") == [
        "uv venv --relocatable --clear --python <4,>=3.11 .venv",
        "uv pip install --python .venv/bin/python -- fastapi[standard]>=0.115,<0.116",
    ]
    assert any("own" in warning for warning in plan.warnings)


@pytest.mark.parametrize(
    ("written", "specifier"),
    [
        ("^1.2.3", ">=1.2.3,<2"),
        ("^0.2.3", ">=0.2.3,<0.3"),
        ("^0.0.3", ">=0.0.3,<0.0.4"),
        ("^0", ">=0,<1"),
        ("~1.2.3", ">=1.2.3,<1.3"),
        ("~1", ">=1,<2"),
        ("1.2", "==1.2"),
        ("*", ""),
        ("1.*", "==1.*"),
        (">=1,<2", ">=1,<2"),
    ],
)
def test_poetry_constraints_in_pep_440(written: str, specifier: str) -> None:
    assert pep440(written) == specifier


_MANAGE = 'import os\ndef main():\n  os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site1.settings")\n'


def test_django_serves_what_its_settings_name_and_collects_static_files() -> None:
    files = {
        "manage.py": _MANAGE,
        "site1/settings.py": 'WSGI_APPLICATION = "site1.web.application"\nSTATIC_ROOT = "x"',
        "requirements.txt": "django\ngunicorn",
    }
    plan = planned(files)
    assert web(plan) == f".venv/bin/python -m gunicorn site1.web:application {_GUNICORN}"
    assert commands(plan, "build") == [".venv/bin/python manage.py collectstatic --noinput"]
    assert plan.framework == "django"


def test_django_without_the_setting_serves_the_module_beside_it() -> None:
    files = {"manage.py": _MANAGE, "site1/settings/__init__.py": "", "site1/asgi.py": "", "requirements.txt": "django\nuvicorn"}
    assert web(planned(files)) == f".venv/bin/python -m uvicorn site1.asgi:application {_UVICORN}"


def test_a_script_without_dependencies_needs_no_environment() -> None:
    plan = planned({"server.py": "import http.server"})
    assert plan.steps == ()
    assert web(plan) == "python3 server.py"


@pytest.mark.parametrize(
    ("files", "asked", "source"),
    [
        ({".python-version": "3.12.4\n"}, "3.12", ".python-version"),
        ({"runtime.txt": "python-3.11.9"}, "3.11", "runtime.txt"),
        ({".python-version": "nonsense", "runtime.txt": "python-3.10"}, "3.10", "runtime.txt"),
    ],
)
def test_requested_version_of_python(files: dict[str, str], asked: str, source: str) -> None:
    plan = planned({"requirements.txt": "flask\ngunicorn", "app.py": FLASK, **files})
    assert f"--python {asked} " in commands(plan, "install")[0]
    assert plan.runtimes[0].source == source


def test_a_framework_without_a_manifest_is_a_problem_that_says_what_to_add() -> None:
    message = problem({"app.py": FLASK})
    assert "app.py uses flask" in message
    assert "requirements.txt" in message


def test_dependencies_without_an_entry_are_a_problem() -> None:
    assert "no file to start from" in problem({"requirements.txt": "requests"})


def test_a_requirement_that_is_none_is_warned_of_by_line() -> None:
    plan = planned({"requirements.txt": "flask\ngunicorn\n=== what\n", "app.py": FLASK})
    assert any("requirements.txt" in warning and "=== what" in warning for warning in plan.warnings)


def test_including_files_in_a_circle_ends() -> None:
    plan = planned({"requirements.txt": "-r a.txt\nflask", "a.txt": "-r requirements.txt\ngunicorn", "app.py": FLASK})
    assert plan.steps[0].inputs == ("a.txt", "requirements.txt")


def test_a_lock_file_of_which_only_the_head_was_sent_is_read_as_far_as_it_goes() -> None:
    files = {
        "pyproject.toml": '[project]\nname="x"\ndependencies=["kit"]',
        "uv.lock": '[[package]]\nname="kit"\ndependencies=[{name="flask"},{name="gunicorn"}]\n[[package]]\nname="zo',
        "app.py": FLASK,
    }
    plan = planned(files)
    assert len(commands(plan, "install")) == 2
    assert plan.warnings == ()
