"""The verb `plan`: how a folder would be built and run, before anything is."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shipoff.cli import names
from shipoff.cli.errors import Failure, Missing, UsageFailure
from shipoff.cli.output import Output
from shipoff.cli.verb import JsonOption, ProjectOption, project_path, signed_in, verb

if TYPE_CHECKING:
    from shipoff.cli.client import Api, Json

RootOption = Annotated[str | None, typer.Option("--root", help="The app's folder inside PATH.")]


@verb
def plan(
    path: Annotated[Path | None, typer.Argument(help="The folder to plan; else this one.")] = None,
    project: ProjectOption = None,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how a folder would be built and run, and why. Nothing is built."""
    from shipoff.cli.snapshot import take

    folder = path or Path()
    if not folder.is_dir():
        raise UsageFailure(f"{folder} is no folder", field="PATH")
    output = Output(as_json=as_json)
    snapshot = take(folder, root or "")
    body: Json = {"paths": snapshot.paths, "contents": snapshot.contents, "source_digest": snapshot.digest}
    if root:
        body["build"] = {"root_directory": root}
    with signed_in() as api:
        found = _known(api, project, folder)
        if found:
            body["project"] = found
        answer = api.post("/v1/detect", body)
    if answer.get("plan") is None:
        _ask(answer, output)
    if as_json:
        sys.stdout.write(json.dumps(answer["plan"], sort_keys=True, indent=2) + "\n")
        return
    _show(answer, output)


def _known(api: Api, project: str | None, folder: Path) -> str:
    """The project whose settings count: the one that was named, else the folder's where there is one; empty: none."""
    if project:
        return project
    try:
        name = names.choose(None, folder)
        api.get(project_path(name))
    except (Missing, UsageFailure):
        return ""
    return name


def _ask(answer: Json, output: Output) -> None:
    """Raises Failure with the question and what can be answered."""
    problem: dict[str, Any] = answer.get("problem") or {}
    choices = problem.get("choices") or []
    output.data(answer)
    for choice in choices:
        output.note(f"  {choice['value']}  {choice['meaning']}")
    field = str(problem.get("field") or "")
    named = ", ".join(str(choice["value"]) for choice in choices)
    remedy = f"set build.{field} in shipoff.toml or in the project's settings" if field in _SETTINGS else ""
    raise Failure(str(problem.get("message")), field=field, remedy=f"{remedy}: {named}" if remedy and named else remedy)


# The port and the address stand as they are: the platform fills them in.
_PLAIN = re.compile(r"(?:[\w@%+=:,./~-]|\$HOST|\$PORT)+")
_SETTINGS = ("root_directory", "package_manager", "provider", "start_command", "output_directory", "dockerfile")


def _show(answer: Json, output: Output) -> None:
    plan_: dict[str, Any] = answer["plan"]
    framework, provider = plan_["framework"], plan_["provider"]
    kind = f"{framework} ({provider})" if framework not in ("", provider) else provider
    words = dict.fromkeys([kind, plan_["mode"]])  # a static site is of the mode static
    output.say(f"{', '.join(words)}, {plan_['confidence']:.0%} sure", bold=True)
    if plan_["app_root"] != ".":
        output.say(f"  in {plan_['app_root']}, packages from {plan_['workspace_root']}")
    for runtime in plan_["runtimes"]:
        output.say(f"  {runtime['name']} {runtime['requested']}, asked for in {runtime['source']}")
    manager = plan_["package_manager"]
    if manager["name"]:
        locked = f", exactly as in {manager['lockfile']}" if manager["frozen"] else ""
        output.say(f"  packages with {manager['name']} {manager['version']}".rstrip() + locked)
    for step in plan_["steps"]:
        place = f" (in {step['folder']})" if step["folder"] else ""
        for command in step["commands"]:
            output.say(f"  {step['name']}{place}: {_shown(command)}")
    if plan_["output_dir"]:
        output.say(f"  serves the files of {plan_['output_dir']}")
    for name, command in plan_["processes"].items():
        output.say(f"  runs {name}: {_shown(command)}")
    if plan_["public_build_env"]:
        output.say(f"  readable by everybody after the build: {', '.join(plan_['public_build_env'])}")
    _reasons(plan_, answer, output)


def _reasons(plan_: Json, answer: Json, output: Output) -> None:
    output.say("Because", bold=True)
    for item in plan_["evidence"]:
        place = ": ".join(part for part in (item["file"], item["key"]) if part)
        output.say(f"  {place}: {item['rule']}")
    for other in plan_["alternatives"]:
        output.say(f"  not {other['framework'] or other['provider']}: {other['why_not']}")
    if answer.get("packages"):
        output.say("Apps here", bold=True)
        output.table(
            ("ROOT", "NAME", "IS"), [(p["root"], p["name"], p["framework"] or p["provider"]) for p in answer["packages"]]
        )
    for warning in plan_["warnings"]:
        output.note(f"Warning: {warning}")


def _shown(command: list[str]) -> str:
    if command[:2] == ["/bin/sh", "-c"] and len(command) == 3:
        return command[2]
    return " ".join(word if _PLAIN.fullmatch(word) else shlex.quote(word) for word in command)
