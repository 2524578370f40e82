"""The verbs of `shipoff hooks`: addresses that are told of a project's deployments."""

from __future__ import annotations

from typing import Annotated

import typer

from shipoff.cli.output import Output, ago
from shipoff.cli.parsing import Group, Verb
from shipoff.cli.verb import JsonOption, ProjectOption, here, project_path, signed_in, verb

app = typer.Typer(
    cls=Group,
    add_completion=False,
    help="Outgoing webhooks: addresses told of every state a deployment passes.",
    no_args_is_help=True,
)


@app.command("add", cls=Verb)
@verb
def add(
    url: Annotated[str, typer.Argument(help="An http or https address.")],
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add an address. The secret its deliveries are signed with is shown once."""
    output = Output(as_json=as_json)
    with signed_in() as api:
        created = api.post(f"{project_path(here(project))}/hooks", {"url": url})
    output.data(created)
    output.say(f"Hook {created['id']} → {created['url']}")
    output.say(f"Secret, shown once: {created['secret']}")


@app.command("list", cls=Verb)
@verb
def list_(project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """List addresses and how the last delivery to each went."""
    output = Output(as_json=as_json)
    with signed_in() as api:
        found = list(api.items(f"{project_path(here(project))}/hooks"))
    output.data({"items": found})
    rows = [(hook["id"], hook["url"], hook.get("last_result") or "-", ago(hook.get("created_at"))) for hook in found]
    output.table(("ID", "URL", "LAST RESULT", "CREATED"), rows)


@app.command("remove", cls=Verb)
@verb
def remove(
    hook_id: Annotated[str, typer.Argument(metavar="ID")], project: ProjectOption = None, as_json: JsonOption = False
) -> None:
    """Remove an address."""
    from shipoff.cli.client import segment

    output = Output(as_json=as_json)
    with signed_in() as api:
        api.delete(f"{project_path(here(project))}/hooks/{segment(hook_id)}")
    output.data({"removed": hook_id})
    output.say(f"Hook {hook_id} is removed")
