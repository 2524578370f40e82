"""What an instance sees of the machine: with bubblewrap its own release, home and scratch folder, and its own processes.

The tree is then bubblewrap's monitor, which stands for the instance; below it the first process of the numbers inside, which
leads a session of its own; and below that the app.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from shipoff.common import sandbox
from shipoff.common.config import listed
from shipoff.runtime.adapters import proctable
from shipoff.runtime.adapters.sessions import MARK

log = structlog.get_logger()
# What may be installed somewhere else than where PATH finds it.
_PROGRAMS = ("node", "npm", "npx", "bun", "deno", "php", "ruby", "java", "python3")
# The monitor and the first process inside.
OWN_PROCESSES = 2


@dataclass(frozen=True)
class Enclosed:
    """A command, how many of its arguments come before the app's own, what it sees and which descriptors it inherits."""

    argv: Sequence[str]
    before: int
    environment: Mapping[str, str]
    descriptors: tuple[int, ...] = ()


def sandbox_for(program: str, search_path: str, *, private: Sequence[Path], shared: str = "") -> sandbox.Sandbox | None:
    """What apps run inside, where bubblewrap is this program; None where there is none. `shared`: folders, with commas."""
    if not program:
        return None
    hidden = sandbox.hidden_folders(private)
    # Virtual environments lead to the interpreter that they were made with.
    path = os.pathsep.join([search_path, str(Path(sys.base_prefix) / "bin")])
    shown = sandbox.shown_folders(hidden, path, programs=_PROGRAMS, more=(), private=private)
    return sandbox.Sandbox(program, hidden, shown, tuple(_shared_folders(shared)))


def _shared_folders(text: str) -> Iterator[str]:
    for part in listed(text):
        if Path(part).is_dir():
            yield str(Path(part).resolve())
        else:
            remedy = "make it before the platform starts, or take it out of SHIPOFF_RUNTIME_SHARED_FOLDERS"
            log.warning("a folder that apps were to share is not there", folder=part, remedy=remedy)


@contextmanager
def enclosed(
    chosen: sandbox.Sandbox | None, argv: Sequence[str], environment: Mapping[str, str], *, own: Path, folder: Path
) -> Iterator[Enclosed]:
    """The command that runs `argv` in `folder`; `own` is the deployment's, and nothing else may be written to."""
    if chosen is None:
        yield Enclosed(argv, 0, environment)
        return
    writable = [own / name for name in ("release", "home", "tmp")]
    inside = sandbox.Inside(writable, own / "tmp", folder, environment, tied=False)
    with sandbox.entered(chosen, inside, argv) as (command, descriptor):
        # The rest travels through the descriptor; by the mark the next platform knows whose monitor it is.
        outer = {name: environment[name] for name in ("PATH", MARK)}
        yield Enclosed(command, len(command) - len(argv), outer, (descriptor,))


def is_monitor(pid: int) -> bool:
    """Whether this process of ours is bubblewrap's."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == "bwrap"
    except OSError:
        return False


def group_to_ask(pid: int) -> int:
    """The process group to send SIGTERM to: the app's. A monitor that ends takes everything along without grace.

    The first process inside is in that group too, and is spared: the kernel passes it no signal that it does not handle.
    """
    processes = proctable.table().values()
    # A release command's keeper stands before its monitor.
    monitor = pid if is_monitor(pid) else next((one.pid for one in processes if one.parent == pid and is_monitor(one.pid)), 0)
    inner = (one.pid for one in processes if monitor and one.parent == monitor and one.session == one.pid)
    return next(inner, pid)
