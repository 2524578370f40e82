"""The verbs of `shipoff events`: for who runs the platform, what services gave up on."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shipoff.cli.errors import Failure, UsageFailure
from shipoff.cli.output import Output, ago, counted
from shipoff.cli.parsing import Group, Verb
from shipoff.cli.verb import JsonOption, signed_in, verb

if TYPE_CHECKING:
    from shipoff.cli.client import Api

_DEAD = "/v1/events/dead"

app = typer.Typer(cls=Group, add_completion=False, help="The platform's own events.", no_args_is_help=True)
dead = typer.Typer(
    cls=Group, add_completion=False, help="Events that a service gave up on, for owners of the platform.", no_args_is_help=True
)
app.add_typer(dead, name="dead")

_StreamOption = Annotated[str, typer.Option("--stream", help="Only of this stream, as deployment.queue.")]
_GroupOption = Annotated[str, typer.Option("--group", help="Only of this service, as orchestrator.")]
_AllOption = Annotated[bool, typer.Option("--all", help="All there are, within --stream and --group.")]
_IdArgument = Annotated[str | None, typer.Argument(metavar="[ID]", show_default=False)]


@dead.command("list", cls=Verb)
@verb
def list_(stream: _StreamOption = "", group: _GroupOption = "", as_json: JsonOption = False) -> None:
    """List them, oldest first, with the service that failed, the reason and the tries."""
    output = Output(as_json=as_json)
    with signed_in() as api:
        found = list(api.items(_DEAD, stream=stream or None, group=group or None, limit=200))
    output.data({"items": found})
    output.table(("ID", "EVENT", "SERVICE", "TRIES", "SINCE", "REASON"), [_row(event) for event in found])
    if not found:
        output.say("No event is dead")


def _row(event: dict[str, Any]) -> tuple[str, ...]:
    kind = (event["event_type"] or "-").rpartition(".")[2]
    return (event["id"], kind, event["group"], str(event["tries"]), ago(event["buried_at"]), event["reason"])


@dead.command("show", cls=Verb)
@verb
def show(event_id: Annotated[str, typer.Argument(metavar="ID")], as_json: JsonOption = False) -> None:
    """Show one with its payload."""
    output = Output(as_json=as_json)
    with signed_in() as api:
        found = api.get(_path(event_id))
    output.data(found)
    for name in ("id", "event_type", "group", "reason", "tries", "buried_at", "event_id", "team_id", "event_time"):
        output.say(f"{name:<11}{found[name] if found[name] is not None else '-'}")
    if found["payload"] is not None:
        output.say(json.dumps(found["payload"], indent=2))


@dead.command("replay", cls=Verb)
@verb
def replay(
    event_id: _IdArgument = None,
    every: _AllOption = False,
    stream: _StreamOption = "",
    group: _GroupOption = "",
    as_json: JsonOption = False,
) -> None:
    """Give one, or --all, back to the service that failed. Others do not see it again."""
    output = Output(as_json=as_json)
    only = _only(event_id, every=every, stream=stream, group=group)
    with signed_in() as api:
        answer = api.post(f"{_path(event_id)}/replay") if event_id else api.post(f"{_DEAD}/replay", only)
    output.data({"replayed": answer["count"]})
    output.say(f"{counted(answer['count'], 'event')} given back")


@dead.command("drop", cls=Verb)
@verb
def drop(
    event_id: _IdArgument = None,
    every: _AllOption = False,
    stream: _StreamOption = "",
    group: _GroupOption = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove one, or --all, for good."""
    output = Output(as_json=as_json)
    only = _only(event_id, every=every, stream=stream, group=group)
    if not yes:
        _confirm(event_id or "all of them")
    with signed_in() as api:
        count = _drop(api, event_id, only)
    output.data({"dropped": count})
    output.say(f"{counted(count, 'event')} dropped")


def _drop(api: Api, event_id: str | None, only: dict[str, str]) -> int:
    if event_id:
        api.delete(_path(event_id))
        return 1
    return int(api.post(f"{_DEAD}/drop", only)["count"])


def _path(event_id: str) -> str:
    from shipoff.cli.client import segment

    return f"{_DEAD}/{segment(event_id)}"


def _only(event_id: str | None, *, every: bool, stream: str, group: str) -> dict[str, str]:
    """The choice within all of them. Raises UsageFailure unless exactly one of ID and --all was given."""
    if bool(event_id) == every:
        raise UsageFailure("which events?", field="ID", remedy="give one's ID, or --all")
    if event_id and (stream or group):
        raise UsageFailure("--stream and --group choose among --all", field="--stream", remedy="leave them out")
    return {"stream": stream, "group": group}


def _confirm(what: str) -> None:
    """Asks, or raises UsageFailure where there is nobody to ask."""
    if not sys.stdin.isatty():
        raise UsageFailure(
            f"dropping {what} wants to be confirmed, and there is nobody to ask", field="--yes", remedy="confirm it with --yes"
        )
    if not typer.confirm(f"Drop {what} for good?", err=True):
        raise Failure("nothing was dropped")
