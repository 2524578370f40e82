"""`shipoff …`: the client's verbs, and those that run the platform."""

from __future__ import annotations

from shipoff.cli.app import app
from shipoff.cli.parsing import Verb
from shipoff.embedded import commands

app.command("serve", cls=Verb)(commands.serve)
app.command("migrate", cls=Verb)(commands.migrate)
app.command("backing", cls=Verb)(commands.backing)
app.command("up", cls=Verb)(commands.up)
app.command("down", cls=Verb)(commands.down)


def main() -> None:
    """The entry point."""
    app()


if __name__ == "__main__":
    main()
