"""Points at which a test can make this process die, as `kill -9` would: around every commit, publish, acknowledgement and call.

Inert unless SHIPOFF_CRASH_AT is set to a number: SIGUSR1 then starts the count, and the process ends itself at that crossing.
"""

from __future__ import annotations

import os
import signal

_crash_at = int(os.environ.get("SHIPOFF_CRASH_AT", "0"))
_crossed = -1


def crossing(point: str) -> None:
    """Marks a point between two effects; `point` names it for whoever reads the test."""
    global _crossed  # noqa: PLW0603 - the count of this process
    if _crossed < 0:
        return
    _crossed += 1
    if _crossed == _crash_at:
        os.write(2, f"crashing at {_crash_at}: {point}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)


def _start_count(*_: object) -> None:
    global _crossed  # noqa: PLW0603 - the count of this process
    _crossed = 0


if _crash_at:
    signal.signal(signal.SIGUSR1, _start_count)
