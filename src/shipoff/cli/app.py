"""The tree of verbs. `python -m shipoff` adds those that run the platform itself."""

from __future__ import annotations

import typer

from shipoff.cli import account, events, hooks, limits, logs, plans, projects, releases, variables

app = typer.Typer(
    name="shipoff",
    help="Ship an app: from a folder or a repository to a running address.",
    epilog=(
        "Exit codes: 0 done · 1 deployment failed or refused · 2 usage · 3 not signed in · 4 not found · "
        "5 platform unreachable · 130 interrupted. Settings: SHIPOFF_URL, SHIPOFF_TOKEN."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)

app.command("login")(account.login)
app.command("whoami")(account.whoami)
app.command("init")(projects.init)
app.command("deploy")(releases.deploy)
app.command("plan")(plans.plan)
app.command("list")(projects.list_)
app.command("status")(projects.status)
app.command("logs")(logs.logs)
app.command("open")(projects.open_)
app.add_typer(variables.app, name="env")
app.command("rollback")(releases.rollback)
app.command("redeploy")(releases.redeploy)
app.command("promote")(releases.promote)
app.command("cancel")(releases.cancel)
app.command("queue")(limits.queue)
app.command("settings")(limits.settings)
app.command("scale")(projects.scale)
app.command("destroy")(projects.destroy)
app.add_typer(account.tokens, name="tokens")
app.add_typer(account.members, name="members")
app.add_typer(hooks.app, name="hooks")
app.add_typer(events.app, name="events")
