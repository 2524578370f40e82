"""The verbs that run the platform itself: serve, up, down. shipoff.__main__ adds them to the client's.

What they do is loaded when they are called: the client's verbs start without it.
"""

from __future__ import annotations

from typing import Annotated

import typer

from shipoff.cli.verb import JsonOption


def serve(
    names: Annotated[list[str] | None, typer.Argument(metavar="[SERVICE…|all]")] = None, as_json: JsonOption = False
) -> None:
    """Run services, alone or together, against the databases that the settings name."""
    from shipoff.embedded import control

    control.serve(names or [], as_json=as_json)


def migrate(
    names: Annotated[list[str] | None, typer.Argument(metavar="[SERVICE…]")] = None,
    wait_s: Annotated[float, typer.Option("--wait", help="Seconds to wait for a database that does not answer.")] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Bring the services' databases to this version's schema, and end."""
    from shipoff.embedded import control

    control.migrate(names or [], wait_s=wait_s, as_json=as_json)


def backing(
    server: Annotated[str, typer.Argument(metavar="postgres|valkey|caddy|objects|dump|restore")], as_json: JsonOption = False
) -> None:
    """Become one of the servers that the platform stands on, for a cluster; dump and restore PostgreSQL beside it."""
    from shipoff.embedded import control

    control.backing(server, as_json=as_json)


def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Give the terminal back once everything is live.")] = False,
    separate: Annotated[bool, typer.Option("--separate", help="Each service in a process of its own.")] = False,
    no_sample: Annotated[bool, typer.Option("--no-sample", help="Do not deploy the sample app.")] = False,
    report_fd: Annotated[int | None, typer.Option("--report-fd", hidden=True)] = None,
    as_json: JsonOption = False,
) -> None:
    """Start the whole platform on this machine: databases, edge, services, and a sample app."""
    from shipoff.embedded import control

    control.up(separate=separate, sample=not no_sample, detach=detach, report_fd=report_fd, as_json=as_json)


def down(as_json: JsonOption = False) -> None:
    """Stop the platform of this data folder, and wait until it has stopped."""
    from shipoff.embedded import control

    control.down(as_json=as_json)
