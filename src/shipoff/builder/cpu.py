"""The CPU seconds of a build's whole process tree, and how many it may use. Sampled by Watch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import psutil


@dataclass(frozen=True)
class CpuBudget:
    """The cores that a build is held to, for as long as it may take. Of no cores: all that it can get.

    A build that stays on its cores meets its deadline first: the sum ends those that left them.
    """

    cpu_millis: int
    timeout_s: int

    @property
    def cores(self) -> int:
        """As many as were reserved, rounded up."""
        return ceil(self.cpu_millis / 1000)

    @property
    def seconds(self) -> int:
        """In CPU seconds, of all processes together."""
        return self.cores * self.timeout_s

    def exceeded(self, used_s: float) -> bool:
        """Whether that is more than there is."""
        return self.cpu_millis > 0 and used_s > self.seconds


class CpuTally:
    """Adds up samples of a tree of processes.

    A process that was waited for is in its parent's sum (times(2)). One that nobody waited for takes its seconds along, and the
    sum of the tree falls: what it fell by is kept. A single low sample is none: a process may have ended while the tree was
    being read, and be in its parent's sum by the next one.
    """

    def __init__(self) -> None:
        self.total_s = 0.0
        self._lost_s = 0.0
        self._previous_s = 0.0

    def add(self, sample_s: float) -> None:
        """Takes the sum over all processes that there are now, and those that they have waited for."""
        lasting_s = max(sample_s, self._previous_s)
        self._lost_s = max(self._lost_s, self.total_s - lasting_s)
        self._previous_s = sample_s
        self.total_s = max(self.total_s, sample_s + self._lost_s)


def sample(processes: Sequence[psutil.Process]) -> float:
    """The CPU seconds of this process and of those, with all that they have waited for; parents come before their children.

    Zombies count: their seconds are their parent's only once it has waited for them.
    """
    # From the top down: who ends in between is missed rather than counted twice.
    times = os.times()
    own_s = times.user + times.system + times.children_user + times.children_system
    return own_s + sum(_cpu_s(process) for process in processes)


def _cpu_s(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.Error):
        return float(sum(process.cpu_times()[:4]))
    return 0.0
