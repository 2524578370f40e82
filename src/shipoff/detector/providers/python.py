"""Python: Flask, FastAPI, Django and other WSGI and ASGI applications, and plain scripts."""

from __future__ import annotations

import re
from dataclasses import replace

from shipoff.detector.domain import Argv, Candidate, Evidence, Mode, Settings, Snapshot, Step
from shipoff.detector.manifests import table_at, toml_table
from shipoff.detector.providers.python_dependencies import PYTHON, Dependencies, dependencies, pip_install, python_version
from shipoff.detector.providers.python_entry import Django, Entry, django, entry, script, trees
from shipoff.detector.syntax import imported_modules

_PROGRAMS_FOLDER = ".venv/bin"
# The runtime fills both in: on one machine only the edge is to reach an app, on a cluster its network is.
_BIND = "$HOST:$PORT"
# Threads let one process answer a probe while a slow request is under way.
_THREADS = "8"
_SERVERS = frozenset({"gunicorn", "uvicorn"})
_HEADLESS: Argv = (
    "--server.port=$PORT",
    "--server.address=$HOST",
    "--server.headless=true",
    "--browser.gatherUsageStats=false",
)
# An extra that brings the server along.
_BUNDLES = {"fastapi": frozenset({"standard", "all"})}
# Where a framework's distribution is named otherwise.
_DISTRIBUTIONS = {"fasthtml": "python-fasthtml"}
_FRAMEWORK_MODULES = frozenset(
    {"flask", "fastapi", "django", "starlette", "litestar", "quart", "bottle", "falcon", "fasthtml", "streamlit"}
)

_COMMAND = re.compile(r"\w[\w.-]*")
_TOOLS = frozenset({"uv", "poetry", "pdm", "pipenv", "pip"})
_PAGES = ("streamlit_app.py", "app.py", "main.py", "Home.py", "src/app.py", "src/main.py")
_APPLICATION, _MANIFEST_AND_SCRIPT, _SCRIPT, _MANIFEST = 90, 60, 40, 35


def python(snapshot: Snapshot, settings: Settings) -> Candidate | None:
    """An application object first, then a script to run."""
    found = dependencies(snapshot, settings.package_manager if settings.package_manager in _TOOLS else "")
    project = django(snapshot)
    served = project.entry if project else entry(snapshot)
    if served:
        candidate = _serving(served, found, project)
    elif page := _streamlit(snapshot, found):
        candidate = page
    elif file := script(snapshot):
        candidate = _running(snapshot, file, found)
    elif command := _console_script(snapshot):
        candidate = _candidate(
            _MANIFEST_AND_SCRIPT,
            (Evidence("pyproject.toml", f"project.scripts.{command}", "the package's only command"),),
            web=(f"{_PROGRAMS_FOLDER}/{command}",),
        )
    elif found.file:
        candidate = _unstartable(found)
    elif found.unreadable:
        candidate = _candidate(_MANIFEST, ())
    else:
        return None
    return _installing(snapshot, candidate, found)


def _candidate(score: int, evidence: tuple[Evidence, ...], **rest: object) -> Candidate:
    return replace(Candidate(provider="python", score=score, mode=Mode.SERVER, evidence=evidence), **rest)  # type: ignore[arg-type]  # fields of Candidate


def _serving(served: Entry, found: Dependencies, project: Django | None) -> Candidate:
    application = served.application
    rule = f"{application.framework} ({application.interface.upper()}) application {served.module}:{application.name}"
    evidence = [Evidence(served.file, application.name, rule)]
    warnings = []
    missing = ""
    if not found.file:
        missing = (
            f"{served.file} uses {application.framework}, but nothing says which packages to install. "
            f"Add a requirements.txt with the line `{_DISTRIBUTIONS.get(application.framework, application.framework)}`, "
            "or a pyproject.toml."
        )
    elif found.installed.extras and _DISTRIBUTIONS.get(application.framework, application.framework) not in found.installed:
        warnings.append(f"{served.file} uses {application.framework}, but {found.file} does not name it")
    return _candidate(
        _APPLICATION,
        tuple(evidence),
        framework=application.framework,
        web=_server(served),
        steps=(_collecting(),) if project and project.collects_static else (),
        warnings=tuple(warnings),
        missing=missing,
    )


def _server(served: Entry) -> Argv:
    application = served.application
    target = f"{served.module}:{application.name}"
    if application.interface == "wsgi":
        folder = ("--pythonpath", served.folder) if served.folder else ()
        called = f"{target}()" if application.factory else target
        return (PYTHON, "-m", "gunicorn", called, "--bind", _BIND, "--threads", _THREADS, *folder)
    folder = ("--app-dir", served.folder) if served.folder else ()
    factory = ("--factory",) if application.factory else ()
    return (PYTHON, "-m", "uvicorn", target, "--host", "$HOST", "--port", "$PORT", *factory, *folder)


def _streamlit(snapshot: Snapshot, found: Dependencies) -> Candidate | None:
    """A page that imports Streamlit, which serves it."""
    pages = trees(snapshot, *_PAGES)
    file = next((page for page in _PAGES if page in pages and "streamlit" in imported_modules(pages[page])), "")
    if not file or "streamlit" not in found.installed:
        return None
    web = (PYTHON, "-m", "streamlit", "run", file, *_HEADLESS)
    evidence = (Evidence(file, "import streamlit", "a Streamlit page"),)
    return _candidate(_APPLICATION, evidence, framework="streamlit", web=web)


def _collecting() -> Step:
    return Step("build", ((PYTHON, "manage.py", "collectstatic", "--noinput"),), network=False)


def _running(snapshot: Snapshot, file: str, found: Dependencies) -> Candidate:
    tree = trees(snapshot, file).get(file)
    used = sorted(imported_modules(tree) & _FRAMEWORK_MODULES) if tree and not found.file else []
    missing = (
        f"{file} imports {used[0]}. Add a requirements.txt with the line `{used[0]}`, or a pyproject.toml." if used else ""
    )
    return _candidate(
        _MANIFEST_AND_SCRIPT if found.file else _SCRIPT,
        (Evidence(file, "", "a customary file to start from"),),
        web=(PYTHON if found.file else "python3", file),
        missing=missing,
    )


def _console_script(snapshot: Snapshot) -> str:
    """The only command that the package installs; empty: none, or several."""
    names = [*table_at(toml_table(snapshot, "pyproject.toml").table, "project", "scripts")]
    return names[0] if len(names) == 1 and _COMMAND.fullmatch(names[0]) else ""


def _unstartable(found: Dependencies) -> Candidate:
    missing = (
        f"{found.file} was seen, but no file to start from: no Flask, FastAPI or Django application and no main.py. "
        "Set a start command, or add a Procfile with a line such as `web: python server.py`."
    )
    return _candidate(_MANIFEST, (), missing=missing)


def _installing(snapshot: Snapshot, candidate: Candidate, found: Dependencies) -> Candidate:
    """The candidate with its environment: version, install step, and a server when the app brings none."""
    requested, wanted = python_version(snapshot)
    candidate = replace(
        candidate,
        package_manager=found.manager,
        runtimes=(requested,) if requested else (),
        evidence=(*candidate.evidence, *found.evidence),
        warnings=(*candidate.warnings, *found.warnings),
    )
    if not found.file:
        return replace(candidate, blocked=f"{found.unreadable}. Mend it and deploy again." if found.unreadable else "")
    module = candidate.web[2] if candidate.web[1:2] == ("-m",) else ""
    extra = _extra_server(module, found)
    commands = (("uv", "venv", "--relocatable", "--clear", "--python", wanted, ".venv"), *found.commands, *extra)
    # A workspace's own environment would lie in its root: the app's folder is to hold it.
    env = {"UV_PROJECT_ENVIRONMENT": f"{snapshot.place}/.venv"} if found.workspace_root else {}
    install = Step("install", commands, env=env, caches=found.caches, inputs=found.inputs)
    warning = f"{found.file} names no server: the newest {module} is installed. Add `{module}` to it to choose the version."
    return replace(
        candidate,
        steps=(install, *candidate.steps),
        installs=found.commands,
        warnings=(*candidate.warnings, warning) if extra else candidate.warnings,
        workspace_root=found.workspace_root,
        blocked=found.conflict,
        decided_by="package_manager" if found.conflict else "",
        choices=found.choices,
        programs_folder=_PROGRAMS_FOLDER,
        programs=frozenset(found.installed.extras),
    )


def _extra_server(module: str, found: Dependencies) -> tuple[Argv, ...]:
    """The command that adds the server which the start command needs; none when the dependencies bring it."""
    bundled = any(found.installed.extras.get(name, frozenset()) & extras for name, extras in _BUNDLES.items())
    if module not in _SERVERS or module in found.installed or (bundled and module == "uvicorn"):
        return ()
    # Without a version: where the dependencies bring it after all, theirs stays.
    return (pip_install(module),)
