"""Where a build's programs run: under the tenant's account and, where the machine has bubblewrap, with a view of their own."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shipoff.builder.assignment import Assignment
from shipoff.common import sandbox


@dataclass(frozen=True)
class Program:
    """What to run, where, and what it sees."""

    argv: Sequence[str]
    folder: Path
    environment: Mapping[str, str]


class Enclosure:
    """One build's: `Programs` starts everything through it."""

    def __init__(self, assignment: Assignment) -> None:
        self._sandbox = assignment.sandbox
        self._work, self._caches = assignment.work_folder, Path(assignment.caches)
        uid = assignment.uid
        self._account: dict[str, Any] = {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}

    @contextmanager
    def around(self, program: Program) -> Iterator[tuple[Sequence[str], dict[str, Any]]]:
        """The command to start, and Popen's keywords for it. Raises FileNotFoundError when there is no such program."""
        if self._sandbox is None:
            yield program.argv, {"cwd": program.folder, "env": dict(program.environment), **self._account}
            return
        _require(program)
        writable = (self._work, self._caches)
        inside = sandbox.Inside(writable, self._work / "tmp", program.folder, program.environment, tied=True)
        with sandbox.entered(self._sandbox, inside, program.argv) as (argv, descriptor):
            # Nothing of the tenant's is in bubblewrap's own environment, where it could change what bubblewrap does.
            yield argv, {"cwd": "/", "env": {}, "pass_fds": [descriptor], **self._account}

    def exit_code(self, code: int) -> int:
        """How the program itself ended, as subprocess has it."""
        return code if self._sandbox is None else sandbox.exit_code(code)


def _require(program: Program) -> None:
    """Raises FileNotFoundError where exec would: bubblewrap only says so in the log."""
    name = program.argv[0]
    found = (program.folder / name).exists() if "/" in name else shutil.which(name, path=program.environment.get("PATH", ""))
    if not found:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
