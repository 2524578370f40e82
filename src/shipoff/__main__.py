"""`shipoff …`: the client's verbs, and those that run the platform."""

from __future__ import annotations

from shipoff.cli.app import app
from shipoff.embedded import commands

app.command("serve")(commands.serve)
app.command("up")(commands.up)
app.command("down")(commands.down)


def main() -> None:
    """The entry point."""
    app()


if __name__ == "__main__":
    main()
