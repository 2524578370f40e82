"""How command lines become values: wrong usage ends like every other failure, `--json` included. Used by the tree of verbs.

Typer checks values with pydantic, whose import takes longer than most verbs; text, paths and whole numbers, which is all that
verbs take, are read here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from shipoff.cli.errors import ExitCode, Failure, UsageFailure
from shipoff.cli.output import report

_PLAIN = (bool, str, int, Path, list[str])


class Group(TyperGroup):
    """Verbs under a word of their own."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its options, read without pydantic."""
        return _plain(super().get_params(ctx))


class Tree(Group):
    """The program itself. Ends it with an exit code, and with the message as text or as JSON."""

    def main(self, args: Sequence[str] | None = None, *arguments: Any, **keywords: Any) -> Any:
        """Runs what the arguments say; ends the process unless `standalone_mode` is False."""
        given = list(sys.argv[1:] if args is None else args)
        try:
            code = super().main(given, *arguments, **{**keywords, "standalone_mode": False})
        except typer.TyperException as error:
            code = _end(error, as_json=asks_for_json(given))
        except typer.Abort:
            report(Failure("interrupted: nothing was changed", code=ExitCode.INTERRUPTED), as_json=asks_for_json(given))
            code = int(ExitCode.INTERRUPTED)
        if not keywords.get("standalone_mode", True):
            return code
        sys.exit(code or 0)


def asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether `--json` is among the options."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


def _end(error: typer.TyperException, *, as_json: bool) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(error.format_message(), err=True)
        return error.exit_code
    remedy = f"see {context.command_path} --help" if context is not None else ""
    parameter = getattr(error, "param", None)
    field = _shown(parameter) if parameter is not None else str(getattr(error, "option_name", ""))
    message = error.format_message().rstrip(".")
    report(UsageFailure(f"{message[:1].lower()}{message[1:]}", field=field, remedy=remedy), as_json=as_json)
    return int(ExitCode.USAGE)


def _shown(parameter: Any) -> str:
    """An option as it is written, or an argument as the help names it."""
    return str(parameter.opts[0] if parameter.param_type_name == "option" else parameter.display_name_raw).strip("[]…")


class Verb(TyperCommand):
    """A verb whose values are read without pydantic."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its options and arguments."""
        return _plain(super().get_params(ctx))


def _plain(parameters: list[Any]) -> list[Any]:
    """The parameters, those with plain values changed to be read here: where Typer asks each for what reads its value."""
    for parameter in parameters:
        if isinstance(parameter, (TyperArgument, TyperOption)) and parameter.type_descriptor.annotation in _PLAIN:
            vars(parameter)["get_runtime_param"] = _Plain
    return parameters


class _Plain:
    """Reads text, whole numbers within their limits, and paths."""

    def coerce(self, value: Any, param: TyperArgument | TyperOption, ctx: typer.Context) -> Any:
        """The parameter's value. Raises BadParameter for no number, or one beyond the limits."""
        wanted = param.type_descriptor.annotation
        if value is None:
            return () if param.nargs == -1 else None
        if wanted == list[str]:
            return list(value)
        if wanted is not int:
            # Flags are bool already.
            return wanted(value)
        try:
            number = int(value)
        except ValueError:
            raise typer.BadParameter(f"{value!r} is no whole number", ctx=ctx, param=param) from None
        least, most = param.type_descriptor.parameter_info.min, param.type_descriptor.parameter_info.max
        if (least is not None and number < least) or (most is not None and number > most):
            limits = f"from {least} to {most}" if most is not None else f"{least} or more"
            raise typer.BadParameter(f"it has to be {limits}", ctx=ctx, param=param)
        return number
