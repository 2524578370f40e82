"""Becomes a tenant's program: drops every privilege, sets limits, executes. A script with no imports of the platform's.

    python -I -S launch.py <uid or -> <open files> <processes or -> <before> -- <argv…>

`before` of the arguments are a sandbox's, which comes before the tenant's own program.

A script of its own because what a child does between fork and exec must not run in a process with threads.
"""

from __future__ import annotations

import ctypes
import errno
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


def _is_there(program: str) -> bool:
    places = [program] if "/" in program else [f"{folder}/{program}" for folder in os.get_exec_path()]
    return any(os.path.exists(place) for place in places)  # noqa: PTH110 - before pathlib's import


def _refuse(program: str, reason: str) -> None:
    sys.stderr.write(f"cannot start {program!r}: {reason}\n")


def main(arguments: list[str]) -> int:
    """Does not return when all goes well; else the exit code a shell would give."""
    uid, files, processes, before, _, *argv = arguments
    program = argv[int(before)]
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
    if not _is_there(program):
        # Asked before: a folder of PATH that is closed to this account makes it look like a refusal.
        _refuse(program, os.strerror(errno.ENOENT) if "/" in program else "no such program in PATH")
        return _NOT_FOUND
    try:
        os.execvpe(argv[0], argv, os.environ)  # noqa: S606 - without a shell, as it has to be
    except OSError as error:
        _refuse(argv[0], str(error.strerror))
        return _NOT_FOUND if isinstance(error, FileNotFoundError) else _CANNOT_EXECUTE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
