"""The one use case: from a snapshot and a project's settings to a plan, or to what stands in its way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from shipoff.detector import commands
from shipoff.detector.domain import (
    Alternative,
    Argv,
    Candidate,
    Evidence,
    Mode,
    Plan,
    Problem,
    Process,
    Settings,
    Snapshot,
    Step,
    folder_of,
)
from shipoff.detector.providers import Provider, noted
from shipoff.detector.providers.node import node
from shipoff.detector.providers.procfile import PATH as PROCFILE
from shipoff.detector.providers.procfile import Procfile, procfile
from shipoff.detector.providers.python import python
from shipoff.detector.providers.static import static

_PROVIDERS: tuple[Provider, ...] = (python, node, static)
# Two servers closer than this are a question to the author.
_TIE = 5
_FIRST_WORDS = {
    "python": "python",
    "python3": "python",
    "gunicorn": "python",
    "uvicorn": "python",
    "node": "node",
    "npm": "node",
}
_HINT = 100
_MAX_WARNINGS = 20


@dataclass(frozen=True)
class _Wish:
    """What settings and Procfile ask for."""

    settings: Settings
    procfile: Procfile
    output: str

    @property
    def web(self) -> str:
        return self.settings.start_command.strip() or self.procfile.commands.get("web", "")

    @property
    def files(self) -> bool:
        return bool(self.output) and not self.settings.start_command.strip()


def detect(snapshot: Snapshot, settings: Settings) -> Plan | Problem:
    """The plan with its evidence, or what was seen and what to add. Pure; never raises."""
    root = folder_of(settings.root_directory)
    if root is None:
        return Problem(f"root_directory {settings.root_directory!r} leads out of the source. Give a folder inside it.")
    if not snapshot.has_folder(root):
        return Problem(f"There is no folder {root!r} in the source. Set root_directory to one that exists.")
    output = folder_of(settings.output_directory) if settings.output_directory.strip() else ""
    if output is None:
        return Problem(f"output_directory {settings.output_directory!r} leads out of the source. Give a folder inside it.")
    app = snapshot.under(root)
    wish = _Wish(settings, procfile(app), output)
    candidates = [found for provider in _PROVIDERS if (found := provider(app))]
    chosen = _choose(candidates, wish)
    if isinstance(chosen, Problem):
        return chosen
    chosen = chosen or _from_wish(wish)
    if not chosen:
        return _nothing(app)
    plan = _planned(chosen, wish)
    return plan if isinstance(plan, Problem) else _annotated(plan, app, root, candidates)


def _choose(candidates: list[Candidate], wish: _Wish) -> Candidate | Problem | None:
    """The best one; a Problem when it lacks something, or when two are equally good."""
    hint = _FIRST_WORDS.get((wish.web.split() or [""])[0].rpartition("/")[2], "")
    if wish.web or wish.output:
        candidates = [replace(found, missing="") for found in candidates]
    if wish.settings.install_command.strip():
        candidates = [replace(found, blocked="") for found in candidates]

    def score(found: Candidate) -> int:
        return found.score + (_HINT if found.provider == hint else 0)

    ranked = sorted(candidates, key=lambda found: (-score(found), found.provider))
    if not ranked:
        return None
    best = ranked[0]
    close = [found for found in ranked if score(best) - score(found) <= _TIE and not found.mode.files_only]
    if len(close) > 1:
        seen = " and ".join(f"{found.provider} ({found.framework or found.mode})" for found in close)
        return Problem(
            f"The source holds more than one app: {seen}. Set a start command, or the root directory of one of them."
        )
    lacking = best.blocked or best.missing
    return Problem(lacking) if lacking else best


def _from_wish(wish: _Wish) -> Candidate | None:
    """Where nothing was recognised, what settings or Procfile say is enough."""
    if wish.files:
        return Candidate("static", 50, Mode.STATIC)
    if wish.web or wish.procfile.commands:
        return Candidate("shell" if wish.settings.start_command else "procfile", 50, Mode.SERVER)
    return None


def _nothing(app: Snapshot) -> Problem:
    if file := noted.dockerfile(app):
        return Problem(
            f"{file} was seen, but the native builder does not use it yet. Add what says how to run the app without it: "
            "a package.json, a requirements.txt or a Procfile."
        )
    if folders := noted.folders_with_apps(app):
        return Problem(
            f"There is no app in the root, but in {', '.join(folders)}. Set the root directory to the one to deploy."
        )
    if unsupported := noted.languages(app):
        file, language = unsupported[0]
        return Problem(
            f"{file} was seen, but {language} is not supported yet. Set a start command, or add a Procfile, to run it."
        )
    seen = ", ".join(app.names()[:5]) or "no files"
    return Problem(
        f"Nothing was recognised ({seen}). Add an index.html, a package.json with a start script, "
        "a requirements.txt with an app.py, or a Procfile with a line `web: <command>`."
    )


def _planned(chosen: Candidate, wish: _Wish) -> Plan | Problem:
    steps = _steps(chosen, wish.settings)
    processes = _processes(chosen, wish)
    if isinstance(steps, Problem):
        return steps
    if isinstance(processes, Problem):
        return processes
    mode = _mode(chosen, wish, processes)
    return Plan(
        provider=chosen.provider,
        framework=chosen.framework,
        mode=mode,
        package_manager=chosen.package_manager,
        runtimes=tuple(sorted(chosen.runtimes)),
        steps=steps,
        output_dir=(wish.output or chosen.output_dir) if mode.files_only else "",
        processes=processes,
        evidence=(*chosen.evidence, *_wished(wish)),
        confidence=1.0 if wish.web or wish.files else chosen.score / 100,
        warnings=(*chosen.warnings, *wish.procfile.warnings),
    )


def _mode(chosen: Candidate, wish: _Wish, processes: tuple[Process, ...]) -> Mode:
    if wish.files:
        return chosen.mode if chosen.mode.files_only else Mode.STATIC
    if not processes:
        return chosen.mode
    if not any(process.name == "web" for process in processes):
        return Mode.WORKER
    return Mode.SERVER if chosen.mode.files_only else chosen.mode


def _steps(chosen: Candidate, settings: Settings) -> tuple[Step, ...] | Problem:
    """The candidate's steps with the commands that settings replace or add."""
    steps = {step.name: step for step in chosen.steps}
    for name, command in (("install", settings.install_command), ("build", settings.build_command)):
        if not command.strip():
            continue
        argv = commands.argv(command, chosen)
        if argv is None:
            return _unclosed(f"{name}_command", command)
        before = steps.get(name, Step(name, (), caches=steps["install"].caches if "install" in steps else ()))
        steps[name] = replace(before, commands=_replaced(before.commands, argv, chosen), inputs=())
    return tuple(steps[name] for name in ("install", "build") if name in steps)


def _replaced(before: tuple[Argv, ...], own: Argv, chosen: Candidate) -> tuple[Argv, ...]:
    """The project's command in the place of what it replaces; the environment it fills is still made, with pip in it."""
    if not set(chosen.installs) & set(before):
        return (own,)
    first = min(before.index(argv) for argv in chosen.installs)
    kept = [(*argv[:-1], "--seed", argv[-1]) if argv[:2] == ("uv", "venv") else argv for argv in before]
    after = [argv for argv in kept[first:] if argv not in chosen.installs]
    return (*kept[:first], own, *after)


def _processes(chosen: Candidate, wish: _Wish) -> tuple[Process, ...] | Problem:
    """The start command of the settings before the Procfile's, and that before what was found."""
    if wish.files:
        return ()
    found: dict[str, Argv] = {"web": chosen.web} if chosen.web and not wish.procfile.commands else {}
    written = dict(wish.procfile.commands)
    if wish.settings.start_command.strip():
        written["web"] = wish.settings.start_command
    for name, command in written.items():
        argv = commands.argv(command, chosen)
        if argv is None:
            return _unclosed("start_command" if command == wish.settings.start_command else f"{PROCFILE}: {name}", command)
        found[name] = argv
    return tuple(sorted(Process(name, argv) for name, argv in found.items()))


def _unclosed(field: str, command: str) -> Problem:
    return Problem(f"{field} {command[:200]!r} cannot be read as a command. Is a quotation mark not closed?")


def _wished(wish: _Wish) -> Iterable[Evidence]:
    """Settings and Procfile lines as evidence."""
    for name in ("root_directory", "install_command", "build_command", "start_command", "output_directory"):
        if getattr(wish.settings, name).strip():
            yield Evidence("", f"settings.{name}", "set by the project: used instead of what was found")
    if not wish.files:
        for name in wish.procfile.commands:
            overruled = name == "web" and wish.settings.start_command.strip()
            yield Evidence(
                PROCFILE, name, "overruled by the project's start command" if overruled else f"runs as the {name} process"
            )


def _annotated(plan: Plan, app: Snapshot, root: str, candidates: list[Candidate]) -> Plan:
    """The plan with its place, what was not chosen and why, in canonical order."""
    others = [found for found in candidates if found.provider != plan.provider]
    alternatives = [Alternative(found.provider, found.framework, _why_not(found, plan)) for found in others]
    warnings = list(plan.warnings)
    if file := noted.dockerfile(app):
        why_not = "not used by the native builder yet"
        alternatives.append(Alternative("dockerfile", "", why_not))
        warnings.append(f"{file} is {why_not}: the app is built by {plan.provider} instead")
    if plan.provider == "static":
        warnings += [f"{file} was seen, but {language} is not supported yet" for file, language in noted.languages(app)]
    return replace(
        plan,
        app_root=root,
        evidence=tuple(sorted(set(plan.evidence))),
        alternatives=tuple(sorted(alternatives)),
        warnings=tuple(sorted(set(warnings)))[:_MAX_WARNINGS],
    )


def _why_not(found: Candidate, plan: Plan) -> str:
    return found.blocked or found.missing or f"weaker evidence ({found.score} of 100) than {plan.framework or plan.provider}"
