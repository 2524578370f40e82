"""Becomes a tenant's program: drops every privilege, sets limits, executes. A script with no imports of the platform's.

    python -I -S launch.py <uid or -> <open files> <processes or -> -- <argv…>

A script of its own because what a child does between fork and exec must not run in a process with threads.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

# os.execvpe imports it when it searches PATH: by then the interpreter's own folder may be closed to this account.
import warnings  # noqa: F401

# linux/prctl.h
_PR_SET_NO_NEW_PRIVS = 38
_CANNOT_EXECUTE = 126
_NOT_FOUND = 127


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    most = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (most, most))


def drop_privileges(uid: str) -> None:
    """Becomes this user and group, for good; `-` stays who it is."""
    if uid != "-":
        os.setgroups([])
        os.setresgid(int(uid), int(uid), int(uid))
        os.setresuid(int(uid), int(uid), int(uid))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _on_path(program: str) -> bool:
    return any(os.path.exists(f"{folder}/{program}") for folder in os.get_exec_path())  # noqa: PTH110 - before pathlib's import


def main(arguments: list[str]) -> int:
    """Does not return when all goes well; else the exit code a shell would give."""
    uid, files, processes, _, *argv = arguments
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, int(files))
    if processes != "-":
        _limit(resource.RLIMIT_NPROC, int(processes))
    drop_privileges(uid)
    # Python ignores these at its start, and what is ignored stays so across exec.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.umask(0o022)
    try:
        os.execvpe(argv[0], argv, os.environ)  # noqa: S606 - without a shell, as it has to be
    except OSError as error:
        if "/" not in argv[0] and not _on_path(argv[0]):
            # A folder of PATH that is closed to this account makes it look like a refusal.
            sys.stderr.write(f"cannot start {argv[0]!r}: no such program in PATH\n")
            return _NOT_FOUND
        sys.stderr.write(f"cannot start {argv[0]!r}: {error.strerror}\n")
        return _NOT_FOUND if isinstance(error, FileNotFoundError) else _CANNOT_EXECUTE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
