"""Becomes another program: in a session of its own, under another account, bound to the life of who started it.

Run as a script in an isolated interpreter by shipoff.embedded.process, so it knows the standard library only. It takes
the place of a `preexec_fn`, which is not safe in a process that has threads.

    launch.py UID GID SIGNAL PARENT COMMAND...      (UID -1: stay who you are; SIGNAL 0: outlive the parent)
"""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def _die_with(parent: int, number: int) -> None:
    """Asks Linux for a signal when the parent ends (prctl(2)); ends at once when it has ended already."""
    if number == 0 or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(f"the parent {parent} is gone")


def main() -> None:
    """Never returns."""
    uid, gid, number, parent = (int(text) for text in sys.argv[1:5])
    command = sys.argv[5:]
    os.setsid()
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # After the change of account: that clears the request.
    _die_with(parent, number)
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main()
