"""Runs a program once and writes down how it ended; a script with no imports of the platform's, and the record's reader.

    python -I -S once.py <record> -- <argv…>

The record comes before the program does, and is never replaced by a second run's: so a runtime that died in between knows
afterwards whether it was begun, and how it ended. Both survive the runtime.
"""

from __future__ import annotations

import os
import signal
import sys

_BEGUN = "begun"
_CANNOT_RUN = 125
_SIGNALLED = 128
_WRITE_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def read(record: str) -> tuple[bool, int | None]:
    """Whether it was begun, and its exit code as subprocess has it; None: it has not ended, or was killed with its keeper."""
    try:
        with open(record) as file:  # noqa: PTH123 - before pathlib's import
            text = file.read().strip()
    except FileNotFoundError:
        return False, None
    return True, int(text) if text.lstrip("-").isdigit() else None


def _write(path: str, text: str) -> None:
    """Writes a new file that a crash of the machine leaves whole. Raises FileExistsError where there is one."""
    descriptor = os.open(path, _WRITE_NEW, 0o600)
    try:
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)  # noqa: PTH120 - before pathlib's import
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def main(arguments: list[str]) -> int:
    """Its exit code, as a shell has it."""
    record, _, *argv = arguments
    try:
        _write(record, f"{_BEGUN}\n")
    except OSError as error:
        sys.stderr.write(f"the release command was not started: {error.strerror}\n")
        return _CANNOT_RUN
    # Those who stop it mean the program. A handler, because what is ignored would be ignored by the program too.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    child = os.fork()
    if child == 0:
        os.execv(argv[0], argv)  # noqa: S606 - without a shell, as it has to be
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    _write(f"{record}.ended", f"{code}\n")
    os.replace(f"{record}.ended", record)  # noqa: PTH105 - before pathlib's import
    return code if code >= 0 else _SIGNALLED - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
