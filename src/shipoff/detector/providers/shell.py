"""A shell script named start.sh: run by the shell that its first line names."""

from __future__ import annotations

from shipoff.detector.domain import Candidate, Evidence, Mode, Settings, Snapshot
from shipoff.detector.manifests import text

_FILE = "start.sh"
_SHELLS = ("sh", "bash", "zsh", "dash", "ksh", "fish")
_SCORE = 32


def shell(snapshot: Snapshot, _settings: Settings) -> Candidate | None:
    """The script, as a server."""
    if not snapshot.has(_FILE):
        return None
    words = text(snapshot, _FILE).partition("\n")[0].removeprefix("#!").replace("/", " ").split()
    program = next((word for word in words if word in _SHELLS), "sh")
    evidence = (Evidence(_FILE, "", f"a script to start from, run by {program}"),)
    return Candidate("shell", _SCORE, Mode.SERVER, web=(program, _FILE), evidence=evidence)
