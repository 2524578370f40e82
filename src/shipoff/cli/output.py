"""What the person, or the script, gets to read.

With `--json`, standard output holds JSON only: one object, or one a line where things happen one after the other.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import typer

from shipoff.cli.errors import Failure
from shipoff.cli.terminal import safe
from shipoff.common.amounts import counted, size

__all__ = ["Output", "ago", "counted", "duration", "error_line", "moment", "report", "size"]

_STATE_COLOURS = {"production": typer.colors.GREEN, "failed": typer.colors.RED, "inactive": typer.colors.BRIGHT_BLACK}


class Output:
    """Writes results as text or as JSON."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A terminal that is not UTF-8 shows a question mark instead of ending the verb.
            sys.stdout.reconfigure(errors="replace")
        self._colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def data(self, value: Any) -> None:
        """A result for machines, on a line of its own; nothing without --json."""
        if self.as_json:
            # ASCII only: no control character of an app reaches a terminal this way either.
            sys.stdout.write(json.dumps(value, separators=(",", ":")) + "\n")
            sys.stdout.flush()

    def say(self, text: str = "", *, colour: str | None = None, bold: bool = False) -> None:
        """A line for people; nothing with --json."""
        if not self.as_json:
            plain = safe(text)
            typer.echo(typer.style(plain, fg=colour, bold=bold) if self._colours and (colour or bold) else plain)

    def note(self, text: str) -> None:
        """A remark beside the result, on standard error: a line, or with --json an object like those of errors."""
        typer.echo(json.dumps({"note": text}, separators=(",", ":")) if self.as_json else safe(text), err=True)

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Aligned columns for people; nothing with --json."""
        if self.as_json:
            return
        cells = [[safe(cell) for cell in row] for row in [headers, *rows]]
        widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
        for index, row in enumerate(cells):
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            typer.echo(typer.style(line, bold=True) if index == 0 and self._colours else line)

    def log_entry(self, entry: dict[str, Any], *, label: bool = False) -> None:
        """One line of a build's or an app's log."""
        if self.as_json:
            self.data(entry)
            return
        source = f"{entry.get('source', '')}: " if label else ""
        sys.stdout.write(f"{source}{safe(str(entry.get('text', '')), colours=self._colours)}\n")
        sys.stdout.flush()

    def state_colour(self, state: str) -> str:
        """The colour a state is shown in."""
        return _STATE_COLOURS.get(state, typer.colors.CYAN)


def error_line(error: Failure) -> str:
    """The error for programs: a JSON object on one line."""
    content = {"message": error.message, "field": error.field, "remedy": error.remedy, "exit_code": int(error.code)}
    return json.dumps({"error": content}, separators=(",", ":"))


def report(error: Failure, *, as_json: bool) -> None:
    """Tells on standard error what went wrong, in which field, and what to do."""
    if as_json:
        typer.echo(error_line(error), err=True)
        return
    # An argument's name in the help (N, PATH) tells a person nothing that the message does not.
    says_more = error.field and not error.field.isupper() and error.field not in error.message
    field = f" ({error.field})" if says_more else ""
    typer.echo(typer.style("Error: ", fg=typer.colors.RED, bold=True) + safe(error.message) + safe(field), err=True)
    if error.remedy:
        typer.echo(f"  → {safe(error.remedy)}", err=True)


def moment(text: str | None) -> datetime | None:
    """A time of the interface (RFC 3339)."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None


def ago(text: str | None, *, now: datetime | None = None) -> str:
    """How long ago that was, in the largest unit: "3 min ago"."""
    then = moment(text)
    if then is None:
        return "-"
    seconds = ((now or datetime.now(UTC)) - then).total_seconds()
    for unit_s, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit_s:
            return f"{int(seconds // unit_s)} {unit} ago"
    return "just now" if seconds < 5 else f"{int(seconds)} s ago"


def duration(seconds: float) -> str:
    """A length of time: "0.4 s", "12 s", "3 min 5 s"."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"
