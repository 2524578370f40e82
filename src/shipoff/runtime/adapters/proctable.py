"""The processes of this machine: whose session, whose child, how much memory. Linux reads /proc, others ask psutil."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

_PROC = Path("/proc")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_STAT_BYTES = 4096
_LINUX = sys.platform == "linux"


@dataclass(frozen=True)
class Entry:
    """One process that runs."""

    pid: int
    parent: int
    session: int
    # Tells it from a later process with the same pid.
    started: str
    rss_bytes: int


Table = Mapping[int, Entry]


def entry(pid: int) -> Entry | None:
    """One process; None when there is none, or only its exit code is left (a zombie)."""
    if not _LINUX:
        return _portable(pid)
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = os.read(descriptor, _STAT_BYTES)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    # proc(5): the name, in brackets, may hold anything; fields are counted from the state, field 3.
    fields = data[data.rindex(b")") + 2 :].split(None, 23)
    if fields[0] in b"ZX":
        return None
    rss_bytes = int(fields[21]) * _PAGE_BYTES
    return Entry(pid, parent=int(fields[1]), session=int(fields[3]), started=fields[19].decode(), rss_bytes=rss_bytes)


def _portable(pid: int) -> Entry | None:
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            started = f"{process.create_time():.2f}"
            return Entry(pid, process.ppid(), os.getsid(pid), started, process.memory_info().rss)
    except (psutil.Error, OSError):
        return None


def table() -> Table:
    """Every process."""
    return {one.pid: one for one in map(entry, psutil.pids()) if one is not None}


def tree(leader: int, started: str, processes: Table) -> frozenset[int]:
    """Everything that belongs to a session leader: its session, dead or alive itself, and all their descendants."""
    own = processes.get(leader)
    if own is not None and own.started != started:
        # The number was given to somebody else, which happens only when the whole session is gone.
        return frozenset()
    children: dict[int, list[int]] = defaultdict(list)
    for one in processes.values():
        children[one.parent].append(one.pid)
    pending = [one.pid for one in processes.values() if leader in (one.session, one.pid)]
    found: set[int] = set()
    while pending:
        pid = pending.pop()
        if pid not in found:
            found.add(pid)
            pending += children[pid]
    return frozenset(found)


def variable(pid: int, name: str) -> str:
    """An environment variable the process was started with; empty when it has none or may not be asked."""
    if not _LINUX:
        try:
            return psutil.Process(pid).environ().get(name, "")
        except (psutil.Error, OSError):
            return ""
    try:
        data = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return ""
    prefix = f"{name}=".encode()
    return next((part[len(prefix) :].decode(errors="replace") for part in data.split(b"\0") if part.startswith(prefix)), "")


def marked(name: str, prefix: str) -> Iterator[tuple[Entry, str]]:
    """Processes whose variable `name` begins so, with its value: also those that have left their session."""
    for one in table().values():
        value = variable(one.pid, name)
        if value.startswith(prefix):
            yield one, value


def proportional_bytes(pids: Iterable[int]) -> int:
    """Memory of these processes with shared pages counted once (PSS); where that is not told, their RSS."""
    return sum(_proportional(pid) for pid in pids)


def _proportional(pid: int) -> int:
    try:
        text = (_PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        one = entry(pid)
        return one.rss_bytes if one else 0
    line = next((line for line in text.splitlines() if line.startswith("Pss:")), "Pss: 0")
    return int(line.split()[1]) * 1024
