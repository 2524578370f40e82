"""How a command of a plan is shown. Pure."""

from __future__ import annotations

import shlex


def shown_command(argv: list[str]) -> str:
    """A command as a person would type it."""
    if argv[:2] in (["/bin/sh", "-c"], ["sh", "-c"]) and len(argv) == 3:
        return argv[2]
    return shlex.join(argv)
