"""How a program of a release is started on this machine: its command, what it sees, and its limits.

The driver `process` starts instances so, `commands` what is run beside them: the same account, enclosure and variables.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shipoff.common.accounts import tenant_uid
from shipoff.common.errors import Unavailable
from shipoff.common.sandbox import Sandbox, exit_code
from shipoff.common.sealing import Sealer
from shipoff.contracts.types.v1 import types_pb2
from shipoff.runtime.adapters import launch, once, proctable
from shipoff.runtime.adapters.enclosure import OWN_PROCESSES, Enclosed, enclosed
from shipoff.runtime.adapters.release import Releases
from shipoff.runtime.adapters.sessions import MARK, exit_words
from shipoff.runtime.domain import Endpoint, InstanceKey, Workload, filled

HOST = "127.0.0.1"
_OPEN_FILES = 65_536
# A tenant's account may have so many processes and threads in all: the last line behind the limit of each instance.
_ACCOUNT_PROCESSES = 4096


@dataclass(frozen=True)
class ProcessOptions:
    """What the driver is told at its start."""

    folder: Path
    first_port: int = 20000
    last_port: int = 29999
    max_processes: int = 256
    search_path: str = "/usr/local/bin:/usr/bin:/bin"
    # What instances run inside; None: nothing.
    sandbox: Sandbox | None = None


@dataclass(frozen=True)
class Channels:
    """Where a program's standard streams lead: descriptors, or subprocess's own constants."""

    stdin: int
    stdout: int
    stderr: int


@dataclass
class Run:
    """A process that this runtime started or adopted."""

    pid: int
    started: str
    # Set where it is a child of this very process: only a parent learns the exit code.
    child: subprocess.Popen[bytes] | None = None
    # How it ended; None while it lives.
    exit: str | None = None
    memory_bytes: int = 0
    excess: str = ""
    # The process is bubblewrap's monitor, and the program is below it.
    enclosed: bool = False

    def code(self) -> int | None:
        """What it ended with, as subprocess has it; None while it lives, or where nobody can tell."""
        status = self.child.poll() if self.child is not None else None
        return exit_code(status) if status is not None and self.enclosed else status

    def ending(self) -> str | None:
        """How the process ended, in words; None while it lives."""
        if self.child is not None:
            code = self.code()
            return None if code is None else exit_words(code)
        entry = proctable.entry(self.pid)
        return None if entry is not None and entry.started == self.started else "ended, how is not known"

    def excess_in(self, processes: proctable.Table, *, most: int) -> str:
        """A limit that it is above, in words: more than `most` processes, or its memory. Empty: none."""
        pids = proctable.tree(self.pid, self.started, processes)
        count = len(pids) - (OWN_PROCESSES if self.enclosed else 0)
        if count > most:
            return f"too many processes: {count} of at most {most}"
        resident = sum(processes[pid].rss_bytes for pid in pids)
        # Only where it looks too much: RSS counts shared pages several times, and the right figure costs more.
        if not self.memory_bytes or resident <= self.memory_bytes or proctable.proportional_bytes(pids) <= self.memory_bytes:
            return ""
        return f"out of memory: it used more than its {self.memory_bytes >> 20} MiB"


class Spawner:
    """Starts programs of releases that are unpacked here."""

    def __init__(self, options: ProcessOptions, releases: Releases, sealer: Sealer) -> None:
        self.options = options
        self._releases = releases
        self._sealer = sealer
        # In the environment of everything that is started: by it the next platform finds what this one left.
        self.mark = f"{options.folder}|"

    def mark_of(self, key: InstanceKey) -> str:
        """What stands for a run in its processes' environment."""
        return f"{self.mark}{key.deployment_id}|{key.process}|{key.index}|{key.incarnation}"

    def spawn(
        self,
        workload: Workload,
        key: InstanceKey,
        argv: Sequence[str],
        channels: Channels,
        *,
        address: Endpoint | None,
        record: str = "",
    ) -> Run:
        """Starts the program; `address` is where it listens, as an instance that serves. The release has to be prepared.

        With a `record` it is run once, ever, and written down there how it ends (once.py).

        Raises InvalidInput where the release lacks its folder, Unavailable when the machine starts no more.
        """
        folder = self._releases.app_root(workload)
        environment = self._environment(workload, key, folder, address)
        host, port = (address.host, address.port) if address else (HOST, 0)
        command = command_in([filled(part, host=host, port=port) for part in argv], folder)
        uid, own = tenant_uid(workload.project_id), self._releases.of(workload.deployment_id)
        try:
            with enclosed(self.options.sandbox, command, environment, own=own, folder=folder) as around:
                child = subprocess.Popen(
                    [*_kept(record), *_launching(uid, around)], cwd=folder,
                    stdin=channels.stdin, stdout=channels.stdout, stderr=channels.stderr,
                    env=dict(around.environment), start_new_session=True, pass_fds=around.descriptors,
                )  # fmt: skip
        except OSError as error:
            raise Unavailable(f"no process can be started: {error.strerror}", retry_after_s=5.0) from error
        entry = proctable.entry(child.pid)
        started, around_it = entry.started if entry else "", self.options.sandbox is not None
        return Run(child.pid, started, child, memory_bytes=workload.memory_bytes, enclosed=around_it)

    def _environment(self, workload: Workload, key: InstanceKey, folder: Path, address: Endpoint | None) -> Mapping[str, str]:
        """A clean base, the user's variables over it, and over both what the platform decides."""
        own = self._releases.of(workload.deployment_id)
        tools = [str(folder / ".venv" / "bin"), str(folder / "node_modules" / ".bin")]
        system = [part for part in self.options.search_path.split(":") if part and not part.startswith(sys.prefix)]
        base = {
            "PATH": ":".join([*tools, *system]),
            "LANG": "C.UTF-8",
            "HOME": str(own / "home"),
            "TMPDIR": str(own / "tmp"),
            "PYTHONUNBUFFERED": "1",
            "NODE_ENV": "production",
        }
        user = self._sealer.open_variables(types_pb2.SealedVariables.FromString(workload.variables))
        decided = {MARK: self.mark_of(key)}
        if address is not None:
            decided |= {"PORT": str(address.port), "HOST": address.host}
        return {**base, **user, **decided}


def _kept(record: str) -> list[str]:
    """What stands before a command that is run once."""
    return [sys.executable, "-I", "-S", once.__file__, record, "--"] if record else []


def command_in(argv: Sequence[str], folder: Path) -> list[str]:
    """The arguments; a relative program is one of the app's."""
    program = argv[0]
    if "/" in program and not program.startswith("/"):
        program = str(folder / program)
    return [program, *argv[1:]]


def _launching(uid: int | None, around: Enclosed) -> list[str]:
    """The command that becomes this one under the tenant's account."""
    account, processes = ("-", "-") if uid is None else (str(uid), str(_ACCOUNT_PROCESSES))
    script = [sys.executable, "-I", "-S", launch.__file__]
    return [*script, account, str(_OPEN_FILES), processes, str(around.before), "--", *around.argv]
