"""Runs a plan's steps, one command after the other, with the project's variables and caches."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

from shipoff.builder.assignment import MARK, Assignment, BuildError, Kind
from shipoff.builder.commands import shown_command
from shipoff.builder.enclosure import Program
from shipoff.builder.journal import Journal
from shipoff.builder.programs import Programs
from shipoff.builder.watch import Watch, machine_kills
from shipoff.contracts.types.v1 import types_pb2

# Which setting of which tool points at the project's cache folder of this name.
CACHES = {
    "UV_CACHE_DIR": "uv",
    "PIP_CACHE_DIR": "pip",
    "npm_config_cache": "npm",
    "npm_config_store_dir": "pnpm",
    "YARN_CACHE_FOLDER": "yarn",
    "POETRY_CACHE_DIR": "poetry",
    "COREPACK_HOME": "corepack",
    "BUN_INSTALL_CACHE_DIR": "bun",
    "GOMODCACHE": "go",
    "GOCACHE": "go-build",
    "CARGO_HOME": "cargo",
    "CARGO_TARGET_DIR": "cargo-target",
    "COMPOSER_CACHE_DIR": "composer",
    "BUNDLE_USER_CACHE": "bundler",
    "GRADLE_USER_HOME": "gradle",
    "NUGET_PACKAGES": "nuget",
    "DENO_DIR": "deno",
    "MIX_HOME": "mix",
    "HEX_HOME": "hex",
}
# npm reads its setting too, does not know it, and says so at every command: only pnpm's own steps have it.
_PNPM = "pnpm"
_QUIET = {
    "CI": "true",
    "DO_NOT_TRACK": "1",
    "NEXT_TELEMETRY_DISABLED": "1",
    "npm_config_update_notifier": "false",
    "npm_config_fund": "false",
    "npm_config_audit": "false",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "COREPACK_ENABLE_DOWNLOAD_PROMPT": "0",
}
# The certificates that the machine trusts, as every other tool takes them: a company's own among them.
_TRUST = {"UV_SYSTEM_CERTS": "true"}
# 1980-01-01: the first day a zip file can name; the same in an image's build.
EPOCH = "315532800"
# What a build leaves has to work in another folder, and be the same the next time.
_MOVABLE = {
    "UV_VENV_RELOCATABLE": "1",
    "UV_NO_EDITABLE": "1",
    "UV_PYTHON_DOWNLOADS": "never",
    "POETRY_VIRTUALENVS_IN_PROJECT": "true",
    "PYTHONDONTWRITEBYTECODE": "1",
    "SOURCE_DATE_EPOCH": EPOCH,
}
# Inside the sandbox the caches and the work folder are mounts of their own: nothing can be linked from one to the other, and uv
# warns at every install that it has tried.
_APART = {"UV_LINK_MODE": "copy"}
# As a shell reports it, and as the kernel does.
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
_REMEDIES = {
    "node": "install Node.js 20 or newer on this machine, where every account can run it",
    "npm": "install Node.js 20 or newer, which brings npm, where every account can run it",
    "pnpm": "install pnpm on this machine (npm install --global pnpm)",
    "yarn": "install yarn on this machine (npm install --global yarn)",
    "bun": "install bun on this machine",
    "npx": "install Node.js 20 or newer, which brings npx, where every account can run it",
    "go": "install Go on this machine (https://go.dev/doc/install, or the package golang-go)",
    "cargo": "install Rust on this machine (https://rustup.rs, or the package cargo)",
    "php": "install PHP on this machine (the package php-cli)",
    "composer": "install Composer on this machine (https://getcomposer.org, or the package composer)",
    "ruby": "install Ruby on this machine (the package ruby-full)",
    "bundle": "install Ruby and Bundler on this machine (the packages ruby-full and ruby-bundler)",
    "java": "install a JDK on this machine (the package default-jdk-headless)",
    "mvn": "install Maven on this machine (the package maven), or add its wrapper mvnw to the source",
    "gradle": "install Gradle on this machine, or add its wrapper gradlew to the source",
    "dotnet": "install the .NET SDK on this machine (https://dotnet.microsoft.com/download)",
    "deno": "install Deno on this machine (https://deno.com)",
    "mix": "install Elixir on this machine (the package elixir)",
    "hugo": "install Hugo on this machine (the package hugo)",
    "zola": "install Zola on this machine (https://www.getzola.org)",
    "python3": "install Python 3.11 or newer, where every account can read it, on this machine",
    "uv": "install uv on this machine",
}


def base_environment(assignment: Assignment) -> dict[str, str]:
    """What every program of a build sees; nothing of the platform's own environment."""
    return {"LANG": "C.UTF-8", **assignment.environment, **_own(assignment)}


def _own(assignment: Assignment) -> dict[str, str]:
    """What nobody may set otherwise."""
    work = assignment.work_folder
    return {"PATH": assignment.path, "HOME": str(work / "home"), "TMPDIR": str(work / "tmp"), MARK: assignment.mark}


def step_environment(assignment: Assignment, step: types_pb2.PlanStep, variables: Mapping[str, str]) -> dict[str, str]:
    """A step's variables: the operator's, the tools' settings, the plan's, the project's; the platform's own come last."""
    used = {name: folder for name, folder in CACHES.items() if folder != _PNPM or _uses_pnpm(step)}
    caches = {name: str(Path(assignment.caches) / folder) for name, folder in used.items()}
    own = {**_own(assignment), **caches}
    tools = {**_QUIET, **_MOVABLE, **(_APART if assignment.sandbox else {})}
    return {**_TRUST, **base_environment(assignment), **tools, **dict(step.env), **variables, **own}


def _uses_pnpm(step: types_pb2.PlanStep) -> bool:
    return any("pnpm" in argument for command in step.commands for argument in command.argv)


def fixed_environment() -> dict[str, str]:
    """What every step sees wherever it runs: the tools' settings that make builds quiet, movable and the same each time."""
    return {**_TRUST, **_QUIET, **_MOVABLE}


class Steps:
    """One build's steps."""

    def __init__(self, assignment: Assignment, programs: Programs, journal: Journal, watch: Watch) -> None:
        self._assignment = assignment
        self._programs = programs
        self._journal = journal
        self._watch = watch

    async def run(self, step: types_pb2.PlanStep, folder: Path, variables: Mapping[str, str]) -> None:
        """Runs a step's commands in the folder. Raises BuildError for the first that fails."""
        environment = step_environment(self._assignment, step, variables)
        for command in step.commands:
            argv = list(command.argv)
            shown = shown_command(argv)
            await self._journal.say(f"▸ {step.name}: {shown}")
            self._require(argv[0], step, folder)
            kills = machine_kills()
            try:
                code = await self._programs.run(Program(argv, folder, environment))
            except (FileNotFoundError, PermissionError) as error:
                raise self._failed(step, f"{argv[0]} cannot be run: {error.strerror}") from error
            if code != 0:
                if code in _KILLED and machine_kills() > kills:
                    raise self._watch.out_of_memory()
                raise self._judged(step, shown, code)

    def _require(self, name: str, step: types_pb2.PlanStep, folder: Path) -> None:
        """Raises BuildError, with what to install, where a program that the plan names is not on the machine."""
        if "/" in name or shutil.which(name, path=self._assignment.path):
            return
        remedy = _REMEDIES.get(name, f"install {name}, or change the command")
        raise BuildError(
            Kind.BUILD_FAILURE_PLATFORM, f"{step.name} needs {name}, which this machine does not have: {remedy}", step=step.name
        )

    def _judged(self, step: types_pb2.PlanStep, shown: str, code: int) -> BuildError:
        # A shell reports a signal as 128 and its number.
        if code in (-signal.SIGXFSZ, 128 + signal.SIGXFSZ):
            return self._watch.disk_breach("wrote a file larger than the disk space it may use")
        if shutil.disk_usage(self._assignment.work).free < self._assignment.limits.free_bytes:
            return self._watch.disk_breach("failed because the machine's disk is full: free some room, then deploy again")
        ended = f"was killed by {_signal(-code)}" if code < 0 else f"exited with code {code}"
        return self._failed(step, f"`{shown}` {ended}")

    def _failed(self, step: types_pb2.PlanStep, reason: str) -> BuildError:
        return BuildError(Kind.BUILD_FAILURE_COMMAND, self._journal.masker.mask(reason), step=step.name)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
