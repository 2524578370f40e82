"""The verbs about what the machine gives: the queue, and a project's settings of resources and time limits."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from shipoff.cli.errors import UsageFailure
from shipoff.cli.output import Output, ago, duration, moment, size
from shipoff.cli.verb import JsonOption, ProjectOption, here, project_path, signed_in, verb

if TYPE_CHECKING:
    from shipoff.cli.client import Json

_TIME = re.compile(r"(\d+)(s|m|h|d)?")
_SECONDS = {None: 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_SIZE = re.compile(r"(\d+)(?:([MG])(?:i?B)?)?")
_OFF = "off"
_BYTES = {None: 1, "M": 1 << 20, "G": 1 << 30}


@verb
def queue(as_json: JsonOption = False) -> None:
    """Show what waits and what builds, when each starts, and what it waits for."""
    output = Output(as_json=as_json)
    with signed_in() as api:
        found = api.get("/v1/queue")
    output.data(found)
    if found["entries"]:
        headers = ("POSITION", "DEPLOYMENT", "ENVIRONMENT", "STATE", "RESERVES", "SINCE", "STARTS", "WAITS FOR")
        output.table(headers, [_row(entry) for entry in found["entries"]])
    else:
        output.say("Nothing waits and nothing builds.")
    budget, reserved = found["budget"], found["reserved"]
    cluster = {name: value for name, value in budget.items() if name.startswith("cluster_") and value}
    if cluster:
        output.say(
            f"Reserved by apps: {reserved['cluster_cpu_millis']} of {budget['cluster_cpu_millis']} millicores of the cluster, "
            f"{size(reserved['cluster_memory_bytes'])} of {size(budget['cluster_memory_bytes'])}"
        )
    whom = "builds" if cluster else "builds and apps"
    output.say(
        f"Reserved by {whom}: {reserved['cpu_millis']} of {budget['cpu_millis']} millicores, "
        f"{size(reserved['memory_bytes'])} of {size(budget['memory_bytes'])}"
    )


def _row(entry: Json) -> tuple[str, ...]:
    needs = entry.get("needs") or {}
    return (
        str(entry["position"] or "-"),
        f"{entry['project_name']} #{entry['number']}",
        entry["environment"],
        entry["state"],
        size(needs["memory_bytes"]) if "memory_bytes" in needs else "-",
        ago(entry["queued_at"]),
        _start(entry),
        entry.get("waits_for") or "",
    )


def _start(entry: Json) -> str:
    if not entry["position"]:
        return "-"
    start = moment(entry.get("estimated_start"))
    return "unknown" if start is None else f"in {duration(max((start - datetime.now(UTC)).total_seconds(), 0))}"


@verb
def settings(
    build_timeout: Annotated[str | None, typer.Option(metavar="TIME", help="Of a build: 90, 20m, 1h; 0: the default.")] = None,
    queue_timeout: Annotated[str | None, typer.Option(metavar="TIME", help="Of the wait for a slot.")] = None,
    ready_timeout: Annotated[str | None, typer.Option(metavar="TIME", help="Until a release answers.")] = None,
    bake: Annotated[
        str | None, typer.Option(metavar="TIME", help="Within which a release that breaks is rolled back; off: never.")
    ] = None,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Of an instance: 512M, 1G; 0: the default.")] = None,
    cpu: Annotated[int | None, typer.Option(metavar="MILLICORES", min=0, help="Of an instance; 0: the default.")] = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a project's time limits and resources, or change them for the deployments to come."""
    output = Output(as_json=as_json)
    build = _given(timeout_s=seconds("build-timeout", build_timeout), queue_timeout_s=seconds("queue-timeout", queue_timeout))
    run = _given(
        ready_timeout_s=seconds("ready-timeout", ready_timeout),
        bake_s=None if bake == _OFF else seconds("bake", bake),
        no_automatic_rollback=None if bake is None else bake == _OFF,
        memory_bytes=_amount("memory", memory),
        cpu_millis=cpu,
    )
    body = _given(build=build or None, run=run or None)
    name = here(project)
    with signed_in() as api:
        found = api.patch(project_path(name), body) if body else api.get(project_path(name))
    output.data(found)
    for label, value in _shown(found):
        output.say(f"{label:<15}{value}")


def _shown(project: Json) -> list[tuple[str, str]]:
    build, run = project["build"], project["run"]
    times = (
        ("build timeout", build["timeout_s"]),
        ("queue timeout", build["queue_timeout_s"]),
        ("ready timeout", run["ready_timeout_s"]),
        ("bake time", run["bake_s"]),
    )
    shown = {label: duration(value) if value else "default" for label, value in times}
    if run["no_automatic_rollback"]:
        shown["bake time"] = _OFF
    return [
        *shown.items(),
        ("instances", str(run["replicas"] or 1)),
        ("memory", size(run["memory_bytes"]) if run["memory_bytes"] else "default"),
        ("cpu", f"{run['cpu_millis']} millicores" if run["cpu_millis"] else "default"),
    ]


def _given(**values: object) -> Json:
    return {name: value for name, value in values.items() if value is not None}


def seconds(option: str, text: str | None) -> int | None:
    """A length of time as people write it. Raises UsageFailure."""
    return _parsed(option, text, _TIME, _SECONDS, "seconds, or a number with s, m, h or d: 20m")


def _amount(option: str, text: str | None) -> int | None:
    return _parsed(option, text, _SIZE, _BYTES, "bytes, or a number with M or G: 512M")


def _parsed(option: str, text: str | None, form: re.Pattern[str], units: dict[str | None, int], rule: str) -> int | None:
    if text is None:
        return None
    match = form.fullmatch(text.strip())
    if match is None:
        raise UsageFailure(f"--{option} {text!r} is not understood", field=f"--{option}", remedy=rule)
    return int(match[1]) * units[match[2]]
