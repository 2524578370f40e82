"""The tree of verbs. `python -m shipoff` adds those that run the platform itself."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer

from shipoff.cli.errors import MEANINGS
from shipoff.cli.parsing import Tree, Verb

# Module and attribute of each, in the order of the help. Reading every verb's options takes longer than most verbs, so that a
# verb is read when it is asked for, and all of them for the help.
_VERBS = {
    "login": "account:login",
    "whoami": "account:whoami",
    "init": "projects:init",
    "deploy": "releases:deploy",
    "plan": "plans:plan",
    "list": "projects:list_",
    "status": "projects:status",
    "logs": "logs:logs",
    "open": "projects:open_",
    "run": "commands:run",
    "exec": "commands:exec_",
    "env": "variables:app",
    "rollback": "releases:rollback",
    "redeploy": "releases:redeploy",
    "promote": "releases:promote",
    "cancel": "releases:cancel",
    "queue": "limits:queue",
    "settings": "limits:settings",
    "scale": "projects:scale",
    "restart": "operating:restart",
    "pause": "operating:pause",
    "resume": "operating:resume",
    "destroy": "projects:destroy",
    "tokens": "account:tokens",
    "members": "account:members",
    "hooks": "hooks:app",
    "events": "events:app",
}

# Paragraphs: Typer joins the lines of one.
_EPILOG = "\n\n".join(
    [
        "Exit codes:",
        *(f"{code.value}: {meaning}." for code, meaning in MEANINGS.items()),
        "Settings: SHIPOFF_URL and SHIPOFF_TOKEN come before what login saved.",
    ]
)


class _Program(Tree):
    """Reads verbs when they are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, the client's verbs first."""
        return [*_VERBS, *(name for name in super().list_commands(ctx) if name not in _VERBS)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The verb; None for a name that is none, which may then be compared with every other."""
        if cmd_name not in self.commands:
            for name in [cmd_name] if cmd_name in _VERBS else _VERBS:
                self.commands.setdefault(name, _read(name))
        return self.commands.get(cmd_name)


def _read(name: str) -> Any:
    module, _, attribute = _VERBS[name].partition(":")
    found = getattr(import_module(f"shipoff.cli.{module}"), attribute)
    if not isinstance(found, typer.Typer):
        found, function = typer.Typer(add_completion=False), found
        found.command(name, cls=Verb)(function)
    command = typer.main.get_command(found)
    command.name = name
    return command


app = typer.Typer(
    name="shipoff",
    cls=_Program,
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


@app.callback()
def _program() -> None:
    """Ship an app: from a folder or a repository to a running address."""
