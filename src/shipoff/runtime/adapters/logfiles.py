"""Where the output of apps waits for the log service: two append-only files a run, beside a note of whose they are.

The apps write the files themselves, so they need nobody who reads while they run. The process driver makes them, the log
agent ships and removes them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from shipoff.runtime.domain import InstanceKey, Workload

CHANNELS = ("stdout", "stderr")
_TAIL_BYTES = 16 << 10
_TAIL_LINES = 5
_TAIL_LINE_CHARACTERS = 300


@dataclass(frozen=True)
class Source:
    """Whose output it is."""

    deployment_id: str
    project_id: str
    team_id: str
    process: str
    index: int
    incarnation: int

    @property
    def key(self) -> InstanceKey:
        return InstanceKey(self.deployment_id, self.process, self.index, self.incarnation)


@dataclass(frozen=True)
class RunLog:
    """The files of one run: `<base>.stdout`, `<base>.stderr`, `<base>.source`, and the agent's `<base>.shipped`."""

    base: Path

    def channel(self, name: str) -> Path:
        return self.base.with_name(f"{self.base.name}.{name}")

    @property
    def source_file(self) -> Path:
        return self.channel("source")

    @property
    def shipped_file(self) -> Path:
        return self.channel("shipped")

    def source(self) -> Source:
        """Raises OSError, ValueError when the note is not there or not whole."""
        return Source(**json.loads(self.source_file.read_text()))

    def remove(self) -> None:
        """Removes the files, the note last: what has no note is found by nobody."""
        for path in (*map(self.channel, CHANNELS), self.shipped_file, self.source_file):
            path.unlink(missing_ok=True)


class LogFiles:
    """All of them, in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, key: InstanceKey) -> RunLog:
        return RunLog(self._folder / f"{key.deployment_id}.{key.process}.{key.index}.{key.incarnation}")

    def changed_ns(self) -> int:
        """When a file was last made or removed here."""
        try:
            return self._folder.stat().st_mtime_ns
        except OSError:
            return 0

    def all(self) -> Iterator[RunLog]:
        """Every run whose files are there."""
        if self._folder.is_dir():
            for path in sorted(self._folder.glob("*.source")):
                yield RunLog(path.with_suffix(""))

    def create(self, workload: Workload, key: InstanceKey, uid: int | None) -> tuple[int, int]:
        """Descriptors to write standard output and error to; the caller closes them.

        The files belong to the tenant, because programs open /dev/stdout anew; the folder does not.
        """
        run = self.of(key)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        source = Source(workload.deployment_id, workload.project_id, workload.team_id, key.process, key.index, key.incarnation)
        descriptors = [_append(run.channel(name), uid) for name in CHANNELS]
        note = run.channel("note")
        note.write_text(json.dumps(asdict(source)))
        note.rename(run.source_file)
        return descriptors[0], descriptors[1]

    def tail(self, key: InstanceKey) -> tuple[str, ...]:
        """The last lines of a run, of standard error where it said anything there."""
        run = self.of(key)
        for name in reversed(CHANNELS):
            lines = _last_lines(run.channel(name))
            if lines:
                return lines
        return ()


def _append(path: Path, uid: int | None) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    if uid is not None:
        os.fchown(descriptor, uid, uid)
    return descriptor


def _last_lines(path: Path) -> tuple[str, ...]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            # What was shipped long ago is a hole, which reads as zeros.
            data = file.read().replace(b"\0", b"")
    except OSError:
        return ()
    lines = [line.strip() for line in data.decode(errors="replace").splitlines()]
    return tuple(line[:_TAIL_LINE_CHARACTERS] for line in lines if line)[-_TAIL_LINES:]
