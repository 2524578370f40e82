"""Elixir: Mix projects and Phoenix, run as releases (https://hexdocs.pm/mix/Mix.Tasks.Release.html)."""

from __future__ import annotations

import re

from shipoff.detector.domain import Argv, Candidate, Evidence, Mode, PackageManager, RuntimeVersion, Settings, Snapshot, Step
from shipoff.detector.manifests import text
from shipoff.detector.versions import version

# Strings as a whole, so that what looks like a comment inside one stays.
_COMMENT = re.compile(r'"(?:[^"\\\n]|\\.)*+"|#[^\n]*')
_APP = re.compile(r"\bapp: :(\w+)")
_DEPENDENCY = re.compile(r"\{:(\w+),")
_ALIAS = re.compile(r'"(assets\.deploy)":')
_ELIXIR = re.compile(r'\belixir: "([^"\n]{1,40})"')
_ENV = {"MIX_ENV": "prod"}
_FRAMEWORK, _PLAIN = 90, 72


def elixir(snapshot: Snapshot, _settings: Settings) -> Candidate | None:
    """A Mix project as a release of its own."""
    if not snapshot.has("mix.exs"):
        return None
    source = _COMMENT.sub(lambda match: match[0] if match[0][0] == '"' else "", text(snapshot, "mix.exs"))
    app = (_APP.findall(source) or [""])[0]
    dependencies = set(_DEPENDENCY.findall(source))
    framework = "phoenix" if "phoenix" in dependencies else ""
    lock = snapshot.first("mix.lock")
    asked = version(snapshot, "elixir") or _requested(source)
    erlang = version(snapshot, "erlang")
    missing = "" if app else "mix.exs was seen, but no `app: :name` in it. Set a start command, or the root directory."
    return Candidate(
        "elixir",
        _FRAMEWORK if framework else _PLAIN,
        Mode.SERVER,
        framework=framework,
        package_manager=PackageManager("mix", "", lock, frozen=bool(lock)),
        runtimes=tuple(found for found in (asked, erlang) if found),
        steps=_steps(source, lock),
        web=_web(snapshot, app, framework) if app else (),
        evidence=(Evidence("mix.exs", "app", f"{framework or 'Mix'} application {app}, run as a release"),),
        missing=missing,
    )


def _web(snapshot: Snapshot, app: str, framework: str) -> Argv:
    release = f"_build/prod/rel/{app}/bin"
    if snapshot.has("rel/overlays/bin/server"):
        return (f"{release}/server",)
    run = (f"{release}/{app}", "start")
    # As https://hexdocs.pm/phoenix/releases.html has it: a release serves only when it is told to.
    return ("env", "PHX_SERVER=true", *run) if framework == "phoenix" else run


def _steps(source: str, lock: str) -> tuple[Step, ...]:
    tools = (("mix", "local.hex", "--force", "--if-missing"), ("mix", "local.rebar", "--force", "--if-missing"))
    get: Argv = ("mix", "deps.get", "--only", "prod", *(("--check-locked",) if lock else ()))
    install = Step("install", (*tools, get), env=_ENV, caches=("mix",))
    assets: tuple[Argv, ...] = (("mix", "assets.deploy"),) if _ALIAS.search(source) else ()
    build = Step("build", (("mix", "compile"), *assets, ("mix", "release", "--overwrite")), env=_ENV, caches=("mix",))
    return (install, build)


def _requested(source: str) -> RuntimeVersion | None:
    match = _ELIXIR.search(source)
    return RuntimeVersion("elixir", match[1], "mix.exs: elixir") if match else None
