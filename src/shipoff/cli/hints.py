"""Commands to paste: what a verb tells the person to do next names the project and environment where they are needed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from shipoff.cli import names
from shipoff.cli.errors import UsageFailure
from shipoff.cli.verb import PRODUCTION

# A field of the interface, and the option or argument a verb has for it.
_OPTIONS = {
    "project.name": "--project",
    "environment": "--environment",
    "source.git.url": "--git",
    "source.git.ref": "--ref",
    "source": "PATH",
    "build.timeout_s": "--build-timeout",
    "build.queue_timeout_s": "--queue-timeout",
    "run.ready_timeout_s": "--ready-timeout",
    "run.memory_bytes": "--memory",
    "run.cpu_millis": "--cpu",
    "run.replicas": "N",
    "replicas": "N",
    "number": "N",
    "command": "COMMAND",
    "instance": "--instance",
    "has_input": "--stdin",
    "to": "--to",
    "limit": "-n",
    "variables": "NAME",
    "setup_token": "--setup-token",
    "team_id": "--team",
    "team": "--team",
    "email": "EMAIL",
    "role": "--role",
    "url": "URL",
}


def command(words: str, project: str, environment: str = PRODUCTION) -> str:
    """`shipoff WORDS`, with -p where this folder is not the project's, and -e for another environment than production."""
    parts = ["shipoff", words]
    if project != _linked():
        parts += ["-p", shlex.quote(project)]
    if environment != PRODUCTION:
        parts += ["-e", shlex.quote(environment)]
    return " ".join(parts)


def _linked() -> str:
    """The project that a verb without --project would be about, here; empty for none."""
    try:
        return names.choose(None, Path())
    except (UsageFailure, OSError):
        return ""


def option(field: str) -> str:
    """What a person writes for a field of the interface; the field itself where there is nothing."""
    return _OPTIONS.get(field, field)


def in_options(text: str, field: str = "") -> str:
    """The platform's text with options in the places of fields: of `field` where the text begins with it, and of every path."""
    if field and text.startswith(field):
        text = option(field) + text[len(field) :]
    for path, written in _OPTIONS.items():
        if "." in path or "_" in path:
            text = re.sub(rf"(?<![\w.]){re.escape(path)}(?![\w.])", written, text)
    return text
