"""The one use case: from a snapshot and a project's settings to a plan, or to what stands in its way."""

from __future__ import annotations

from dataclasses import dataclass, replace

from shipoff.detector import monorepo
from shipoff.detector.configuration import Written, written
from shipoff.detector.domain import (
    Alternative,
    Candidate,
    Choice,
    Detection,
    Evidence,
    Mode,
    Package,
    Plan,
    Problem,
    Settings,
    Snapshot,
    folder_of,
)
from shipoff.detector.planning import Wish, planned
from shipoff.detector.providers import PROVIDERS, noted
from shipoff.detector.providers.procfile import Procfile, procfile

# Two servers closer than this are a question to the author.
_TIE = 5
_FIRST_WORDS = {
    "python": ("python", "python3", "gunicorn", "uvicorn", "flask", "django-admin", "streamlit", "hypercorn", "celery"),
    "node": ("node", "npm", "npx", "pnpm", "yarn", "bun", "bunx", "next", "tsx"),
    "ruby": ("ruby", "bundle", "rails", "rackup", "puma", "rake"),
    "php": ("php", "composer"),
    "java": ("java",),
    "dotnet": ("dotnet",),
    "deno": ("deno",),
    "elixir": ("mix", "elixir", "iex"),
}
_HINTS = {word: provider for provider, words in _FIRST_WORDS.items() for word in words}
_HINT = 100
_MAX_WARNINGS = 20
_DOCKER_SCORE = 95
_LIBRARY = 50


@dataclass(frozen=True)
class Circumstances:
    """What is known besides the files: the source's digest, and whether Dockerfiles can be built."""

    source_digest: str = ""
    builds_images: bool = False


def detect(snapshot: Snapshot, settings: Settings, circumstances: Circumstances | None = None) -> Plan | Problem:
    """The plan with its evidence, or what was seen and what to add. Pure; never raises."""
    return survey(snapshot, settings, circumstances).outcome


def survey(snapshot: Snapshot, settings: Settings, circumstances: Circumstances | None = None) -> Detection:
    """The plan or the problem, and the apps of a repository that holds several. Pure; never raises."""
    circumstances = circumstances or Circumstances()
    packages = monorepo.packages(snapshot, _package)
    root, note = _root(snapshot, settings)
    if isinstance(root, Problem):
        return Detection(root, packages)
    outcome = _in_folder(snapshot, root, settings, circumstances)
    if isinstance(outcome, Problem) and root == "." and packages and outcome.field in ("", "root_directory"):
        outcome = _one_of(snapshot, settings, circumstances, packages)
    if isinstance(outcome, Plan):
        evidence = tuple(sorted({*outcome.evidence, *note}))
        outcome = replace(outcome, evidence=evidence, source_digest=circumstances.source_digest)
    return Detection(outcome, packages)


def _root(snapshot: Snapshot, settings: Settings) -> tuple[str | Problem, tuple[Evidence, ...]]:
    """The app's folder: the project's setting, else the one that shipoff.toml in the source's root names."""
    asked = settings.root_directory
    note: tuple[Evidence, ...] = ()
    if not asked.strip():
        there = written(snapshot, settings)
        if isinstance(there, Written) and "root_directory" in there.named:
            asked = there.settings.root_directory
            note = (Evidence("shipoff.toml", "build.root_directory", "set by the repository: used instead of what was found"),)
    root = folder_of(asked)
    if root is None:
        message = f"root_directory {asked!r} leads out of the source. Give a folder inside it."
        return Problem(message, field="root_directory"), ()
    if not snapshot.has_folder(root):
        message = f"There is no folder {root!r} in the source. Set root_directory to one that exists."
        return Problem(message, field="root_directory"), ()
    return root, note


def _one_of(
    snapshot: Snapshot, settings: Settings, circumstances: Circumstances, packages: tuple[Package, ...]
) -> Plan | Problem:
    """The repository's only app; a question where there are several."""
    if len(packages) > 1:
        choices = tuple(Choice(package.root, _described(package)) for package in packages)
        shown = ", ".join(choice.value for choice in choices[:6])
        return Problem(
            f"The repository holds {len(packages)} apps: {shown}. Set the root directory to the one to deploy.",
            field="root_directory",
            choices=choices,
        )
    only = packages[0]
    outcome = _in_folder(snapshot, only.root, settings, circumstances)
    if isinstance(outcome, Problem):
        return outcome
    found = Evidence(f"{only.root}/", "", "the only app of the workspace")
    return replace(outcome, evidence=tuple(sorted({*outcome.evidence, found})))


def _described(package: Package) -> str:
    return f"{package.name}: {package.framework or package.provider}, {package.mode}"


def _package(app: Snapshot) -> Candidate | None:
    """The best candidate of a workspace's folder that something could be started or served of."""
    found = [candidate for provider in PROVIDERS if (candidate := provider(app, Settings()))]
    best = max(found, key=lambda candidate: candidate.score, default=None)
    runnable = best and not best.missing and (best.web or best.output_dir or best.others)
    # A library has a `main`, and pages of its documentation, too: neither makes it an app.
    library = best and (best.score <= _LIBRARY and app.first("package.json", "pyproject.toml", "Cargo.toml"))
    return best if runnable and not library else None


def _in_folder(snapshot: Snapshot, root: str, settings: Settings, circumstances: Circumstances) -> Plan | Problem:
    app = snapshot.under(root)
    wish = _wish(app, snapshot, settings)
    if isinstance(wish, Problem):
        return wish
    file = noted.dockerfile(app, wish.settings.dockerfile)
    docker = _docker(app, file, wish, circumstances)
    if docker:
        return docker if isinstance(docker, Problem) else _placed(docker, _for_images(wish), app, root, [])
    candidates = [found for provider in PROVIDERS if (found := provider(app, wish.settings))]
    chosen = _choose(candidates, wish) or _from_wish(wish)
    if isinstance(chosen, Problem):
        return chosen
    return _placed(chosen, wish, app, root, candidates) if chosen else _nothing(app)


def _wish(app: Snapshot, snapshot: Snapshot, settings: Settings) -> Wish | Problem:
    said = written(app if app.has("shipoff.toml") else snapshot, settings)
    if isinstance(said, Problem):
        return said
    output = folder_of(said.settings.output_directory) if said.settings.output_directory.strip() else ""
    if output is None:
        message = f"output_directory {said.settings.output_directory!r} leads out of the source. Give a folder inside it."
        return Problem(message, field="output_directory")
    return Wish(said, procfile(app), output)


def _docker(app: Snapshot, file: str, wish: Wish, circumstances: Circumstances) -> Candidate | Problem | None:
    """The Dockerfile as a candidate, where one is asked for, or is there and can be built."""
    provider = wish.settings.provider.strip()
    path = wish.settings.dockerfile.strip()
    asked = provider == "docker" or (path not in ("", "off") and not provider)
    if asked and not file:
        return Problem(
            f"There is no {path or 'Dockerfile'} in the app's folder. Add it, or change the setting.", field="dockerfile"
        )
    if asked and not circumstances.builds_images:
        message = f"{file} is asked for, but this platform's native builder cannot build Dockerfiles. Set dockerfile to off."
        return Problem(message, field="dockerfile", choices=(Choice("off", "plan the app from its other files"),))
    if not asked and (provider or path == "off" or not file or not circumstances.builds_images):
        return None
    evidence = (Evidence(file, "", "the repository's own Dockerfile says how the app is built"),)
    return Candidate("docker", _DOCKER_SCORE, Mode.SERVER, evidence=evidence, programs_folder="")


def _for_images(wish: Wish) -> Wish:
    """A Dockerfile installs and builds by itself, and comes before a Procfile."""
    settings = replace(wish.settings, install_command="", build_command="")
    return Wish(replace(wish.written, settings=settings), Procfile({}), "")


def _choose(candidates: list[Candidate], wish: Wish) -> Candidate | Problem | None:
    """The best one; a Problem when it lacks something, or when two are equally good."""
    provider = wish.settings.provider.strip()
    if provider and provider not in ("docker", "shell"):
        candidates = [found for found in candidates if found.provider == provider]
        if not candidates:
            return Problem(f"provider is set to {provider!r}, but nothing of it was found.", field="provider")
    hint = _HINTS.get((wish.web.split() or [""])[0].rpartition("/")[2], "")
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
        return _tie(close)
    lacking = best.blocked or best.missing
    return Problem(lacking, field=best.decided_by, choices=best.choices) if lacking else best


def _tie(close: list[Candidate]) -> Problem:
    seen = " and ".join(f"{found.provider} ({found.framework or found.mode})" for found in close)
    return Problem(
        f"The source holds more than one app: {seen}. Set the provider, a start command, or the root directory of one of them.",
        field="provider",
        choices=tuple(Choice(found.provider, found.framework or str(found.mode)) for found in close),
    )


def _from_wish(wish: Wish) -> Candidate | None:
    """Where nothing was recognised, what settings or Procfile say is enough."""
    if wish.files:
        return Candidate("static", 50, Mode.STATIC)
    if wish.commands:
        own = wish.settings.start_command or wish.written.processes
        return Candidate("shell" if own else "procfile", 50, Mode.SERVER)
    return None


def _nothing(app: Snapshot) -> Problem:
    if file := noted.dockerfile(app, ""):
        return Problem(
            f"{file} was seen, but the native builder does not use it yet. Add what says how to run the app without it: "
            "a package.json, a requirements.txt or a Procfile."
        )
    if folders := noted.folders_with_apps(app):
        return Problem(
            f"There is no app in the root, but in {', '.join(folders)}. Set the root directory to the one to deploy.",
            field="root_directory",
            choices=tuple(Choice(folder, "holds a manifest of its own") for folder in folders),
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


def _placed(chosen: Candidate, wish: Wish, app: Snapshot, root: str, candidates: list[Candidate]) -> Plan | Problem:
    """The plan with what was not chosen and why, in canonical order."""
    plan = planned(chosen, wish, root)
    if isinstance(plan, Problem):
        return plan
    others = [found for found in candidates if found.provider != plan.provider]
    alternatives = [Alternative(found.provider, found.framework, _why_not(found, plan)) for found in others]
    warnings = list(plan.warnings)
    file = noted.dockerfile(app, wish.settings.dockerfile)
    if plan.provider == "docker":
        plan = replace(plan, dockerfile=file)
    elif file:
        off = wish.settings.dockerfile == "off" or bool(wish.settings.provider)
        why_not = "turned off by a setting" if off else "not used by the native builder yet"
        alternatives.append(Alternative("docker", "", why_not))
        warnings += [] if off else [f"{file} is {why_not}: the app is built by {plan.provider} instead"]
    if plan.provider == "static":
        warnings += [f"{path} was seen, but {language} is not supported yet" for path, language in noted.languages(app)]
    return replace(
        plan,
        evidence=tuple(sorted(set(plan.evidence))),
        alternatives=tuple(sorted(alternatives)),
        warnings=tuple(sorted(set(warnings)))[:_MAX_WARNINGS],
    )


def _why_not(found: Candidate, plan: Plan) -> str:
    return found.blocked or found.missing or f"weaker evidence ({found.score} of 100) than {plan.framework or plan.provider}"
