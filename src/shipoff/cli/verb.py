"""What every verb shares: its options, the signed-in connection, and how its failures end the program."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec

import typer

from shipoff.cli import credentials, names
from shipoff.cli.errors import ExitCode, Failure
from shipoff.cli.output import report

if TYPE_CHECKING:
    from shipoff.cli.client import Api

PRODUCTION = "production"

JsonOption = Annotated[bool, typer.Option("--json", help="JSON on standard output, and nothing else there.")]
ProjectOption = Annotated[
    str | None, typer.Option("--project", "-p", help="The project; else shipoff.toml here, else this folder's name.")
]
EnvironmentOption = Annotated[str, typer.Option("--environment", "-e", help="The environment.")]
DetachOption = Annotated[bool, typer.Option("--detach", "-d", help="Do not wait for the end.")]

_P = ParamSpec("_P")


def verb(function: Callable[_P, None]) -> Callable[_P, None]:
    """Ends the program with a Failure's message and exit code; an interruption with 130."""

    @functools.wraps(function)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except Failure as error:
            report(error, as_json=bool(kwargs.get("as_json")))
            raise typer.Exit(int(error.code)) from None
        except KeyboardInterrupt:
            raise typer.Exit(int(ExitCode.INTERRUPTED)) from None

    return guarded


@contextmanager
def signed_in() -> Iterator[Api]:
    """A connection with this person's token. Raises Failure without one, Unreachable when nothing answers at all."""
    from shipoff.cli.client import Api

    kept = credentials.load()
    with Api(kept) as api:
        if not kept.token:
            api.get("/v1/info")
            raise Failure(
                f"you are not signed in to {kept.url}",
                code=ExitCode.NOT_SIGNED_IN,
                remedy="shipoff login, or set SHIPOFF_TOKEN",
            )
        yield api


def here(project: str | None) -> str:
    """The project that a verb without a PATH is about."""
    return names.choose(project, Path())


def project_path(project: str) -> str:
    """A project's address in the interface."""
    from shipoff.cli.client import segment

    return f"/v1/projects/{segment(project)}"
