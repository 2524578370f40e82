"""The tree of verbs. `python -m shipoff` adds those that run the platform itself."""

from __future__ import annotations

import typer

from shipoff.cli import account, events, hooks, limits, logs, plans, projects, releases, variables
from shipoff.cli.errors import MEANINGS
from shipoff.cli.parsing import Tree, Verb

# Paragraphs: Typer joins the lines of one.
_EPILOG = "\n\n".join(
    [
        "Exit codes:",
        *(f"{code.value}: {meaning}." for code, meaning in MEANINGS.items()),
        "Settings: SHIPOFF_URL and SHIPOFF_TOKEN come before what login saved.",
    ]
)

app = typer.Typer(
    name="shipoff",
    cls=Tree,
    help="Ship an app: from a folder or a repository to a running address.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)

app.command("login", cls=Verb)(account.login)
app.command("whoami", cls=Verb)(account.whoami)
app.command("init", cls=Verb)(projects.init)
app.command("deploy", cls=Verb)(releases.deploy)
app.command("plan", cls=Verb)(plans.plan)
app.command("list", cls=Verb)(projects.list_)
app.command("status", cls=Verb)(projects.status)
app.command("logs", cls=Verb)(logs.logs)
app.command("open", cls=Verb)(projects.open_)
app.add_typer(variables.app, name="env")
app.command("rollback", cls=Verb)(releases.rollback)
app.command("redeploy", cls=Verb)(releases.redeploy)
app.command("promote", cls=Verb)(releases.promote)
app.command("cancel", cls=Verb)(releases.cancel)
app.command("queue", cls=Verb)(limits.queue)
app.command("settings", cls=Verb)(limits.settings)
app.command("scale", cls=Verb)(projects.scale)
app.command("destroy", cls=Verb)(projects.destroy)
app.add_typer(account.tokens, name="tokens")
app.add_typer(account.members, name="members")
app.add_typer(hooks.app, name="hooks")
app.add_typer(events.app, name="events")
