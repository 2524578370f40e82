"""From the chosen candidate to the plan: what settings, shipoff.toml and Procfile replace, and the canonical order."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass, replace

from shipoff.detector import commands
from shipoff.detector.configuration import PATH as CONFIGURATION
from shipoff.detector.configuration import Written
from shipoff.detector.domain import Argv, Artifacts, Candidate, Evidence, Mode, Plan, Problem, Process, Settings, Step
from shipoff.detector.providers.procfile import PATH as PROCFILE
from shipoff.detector.providers.procfile import Procfile

_NEVER_SHIPPED = (".git", ".hg", ".svn")


@dataclass(frozen=True)
class Wish:
    """What the project's settings, shipoff.toml and the Procfile ask for, in this order of precedence."""

    written: Written
    procfile: Procfile
    # The output directory, normalised; empty: none is asked for.
    output: str

    @property
    def settings(self) -> Settings:
        """The settings, completed from shipoff.toml."""
        return self.written.settings

    @property
    def commands(self) -> dict[str, str]:
        """Process name → command."""
        own = {"web": self.settings.start_command} if self.settings.start_command.strip() else {}
        return {**self.procfile.commands, **self.written.processes, **own}

    @property
    def web(self) -> str:
        """The command to listen with; empty: nobody says."""
        return self.commands.get("web", "")

    @property
    def files(self) -> bool:
        """Whether files shall be served, whatever else is there."""
        asked = self.settings.start_command.strip() or "web" in self.written.processes
        return bool(self.output) and not asked


def planned(chosen: Candidate, wish: Wish, root: str) -> Plan | Problem:
    """The plan of the candidate; a Problem when a command of the user's cannot be read."""
    steps = _steps(chosen, wish.settings)
    processes = _processes(chosen, wish)
    if isinstance(steps, Problem):
        return steps
    if isinstance(processes, Problem):
        return processes
    mode = _mode(chosen, wish, processes)
    output = (wish.output or chosen.output_dir) if mode.files_only else ""
    return Plan(
        provider=chosen.provider,
        framework=chosen.framework,
        mode=mode,
        app_root=root,
        workspace_root=chosen.workspace_root or root,
        package_manager=chosen.package_manager,
        runtimes=tuple(sorted(chosen.runtimes)),
        steps=steps,
        output_dir=output,
        processes=processes,
        port=chosen.port if processes and not wish.web else 0,
        health_path=wish.written.health_path,
        artifacts=_artifacts(chosen, root, output),
        public_build_env=tuple(sorted(chosen.public_build_env)) if chosen.steps else (),
        watch_paths=tuple(sorted(chosen.watch_paths)) or (("**",) if root == "." else (f"{root}/**",)),
        evidence=(*chosen.evidence, *_wished(wish)),
        confidence=1.0 if wish.web or wish.files else chosen.score / 100,
        warnings=(*chosen.warnings, *wish.procfile.warnings, *wish.written.warnings, *_unheard(wish, mode)),
    )


def _unheard(wish: Wish, mode: Mode) -> Iterable[str]:
    """What is asked for and cannot be."""
    if mode.files_only and "release" in wish.commands:
        yield "the release command is not run: what is deployed are files, without a process; run it in the build command"


def _artifacts(chosen: Candidate, root: str, output: str) -> Artifacts:
    """The served folder, or the whole source: processes start in the app's folder, and may need what stands beside it."""
    if output:
        return Artifacts(include=(posixpath.normpath(f"{root}/{output}"),), exclude=_NEVER_SHIPPED)
    excluded = (posixpath.normpath(f"{root}/{folder}") for folder in chosen.exclude)
    return Artifacts(include=(".",), exclude=tuple(sorted({*_NEVER_SHIPPED, *excluded})))


def _mode(chosen: Candidate, wish: Wish, processes: tuple[Process, ...]) -> Mode:
    if wish.files:
        return chosen.mode if chosen.mode.files_only else Mode.STATIC
    if not processes:
        return chosen.mode
    names = {process.name for process in processes}
    if names == {"release"} and chosen.mode.files_only:
        return chosen.mode
    if "web" not in names:
        return Mode.WORKER
    if wish.web and chosen.mode in (Mode.WORKER, Mode.STATIC, Mode.SPA):
        return Mode.SERVER
    return chosen.mode


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
    between = [step for step in chosen.steps if step.name not in ("install", "build")]
    ordered = [steps.get("install"), *between, steps.get("build")]
    return tuple(step for step in ordered if step)


def _replaced(before: tuple[Argv, ...], own: Argv, chosen: Candidate) -> tuple[Argv, ...]:
    """The project's command in the place of what it replaces; the environment it fills is still made, with pip in it."""
    if not set(chosen.installs) & set(before):
        return (own,)
    first = min(before.index(argv) for argv in chosen.installs)
    kept = [(*argv[:-1], "--seed", argv[-1]) if argv[:2] == ("uv", "venv") else argv for argv in before]
    after = [argv for argv in kept[first:] if argv not in chosen.installs]
    return (*kept[:first], own, *after)


def _processes(chosen: Candidate, wish: Wish) -> tuple[Process, ...] | Problem:
    """The processes somebody wrote down; where nobody did, those that were found."""
    if wish.files:
        return ()
    found: dict[str, Argv] = {}
    if not wish.commands:
        found = {process.name: process.command for process in chosen.others}
        found |= {"web": chosen.web} if chosen.web else {}
    elif chosen.web and set(wish.commands) == {"release"}:
        found = {"web": chosen.web}
    for name, command in wish.commands.items():
        argv = commands.argv(command, chosen)
        if argv is None:
            return _unclosed(f"{_origin(name, wish)}: {name}", command)
        found[name] = argv
    return tuple(sorted(Process(name, argv) for name, argv in found.items()))


def _origin(name: str, wish: Wish) -> str:
    if name == "web" and wish.settings.start_command.strip():
        return "start_command"
    return CONFIGURATION if name in wish.written.processes else PROCFILE


def _unclosed(field: str, command: str) -> Problem:
    return Problem(
        f"{field} {command[:200]!r} cannot be read as a command. Is a quotation mark not closed?", field=field.partition(":")[0]
    )


def _wished(wish: Wish) -> Iterable[Evidence]:
    """Settings, shipoff.toml and Procfile lines as evidence."""
    for name in sorted(vars(wish.settings)):
        if name in wish.written.named:
            yield Evidence(CONFIGURATION, f"build.{name}", "set by the repository: used instead of what was found")
        elif getattr(wish.settings, name).strip():
            yield Evidence("", f"settings.{name}", "set by the project: used instead of what was found")
    if wish.written.health_path:
        yield Evidence(CONFIGURATION, "run.health_path", "answers below 400 when the app is ready")
    if wish.files:
        return
    for file, found in ((CONFIGURATION, wish.written.processes), (PROCFILE, wish.procfile.commands)):
        for name in found:
            overruled = _origin(name, wish) != file
            yield Evidence(
                file,
                name if file == PROCFILE else f"processes.{name}",
                f"overruled by {_overruler(name, wish)}" if overruled else f"runs as the {name} process",
            )


def _overruler(name: str, wish: Wish) -> str:
    return "the project's start command" if _origin(name, wish) == "start_command" else CONFIGURATION
