"""What is asked of a process of the machine. Used by whoever ends the processes of a build: the builder, and build after it."""

from __future__ import annotations

import psutil


def moves(process: psutil.Process) -> bool:
    """Whether it may still do something: it is there, and neither stopped nor dead."""
    try:
        return process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.Error:
        return False
