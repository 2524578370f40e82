"""Procfile: what runs, in the author's own words. It overrules what another provider would start."""

from __future__ import annotations

import re
from dataclasses import dataclass

from shipoff.detector.domain import Snapshot
from shipoff.detector.manifests import text

PATH = "Procfile"
# As Heroku documents the format: `<process type>: <command>`.
_LINE = re.compile(r"([A-Za-z0-9_-]{1,63})\s*:\s*(\S.*)")
_MAX_PROCESSES = 20
_MAX_COMMAND_CHARACTERS = 4096


@dataclass(frozen=True)
class Procfile:
    """Process name → command as written."""

    commands: dict[str, str]
    warnings: tuple[str, ...] = ()


def procfile(snapshot: Snapshot) -> Procfile:
    """The Procfile's processes; none when there is no such file."""
    commands: dict[str, str] = {}
    warnings: list[str] = []
    for number, line in enumerate(text(snapshot, PATH).splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _LINE.fullmatch(stripped)
        if match and len(match[2]) <= _MAX_COMMAND_CHARACTERS and len(commands) < _MAX_PROCESSES:
            commands.setdefault(match[1], match[2])
        elif len(warnings) < 3:
            warnings.append(f"{PATH}, line {number} is not `name: command` and was left out")
    return Procfile(commands, tuple(warnings))
