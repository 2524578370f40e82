"""How the platform is to be started."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """Each service in its own process or not, with the sample app or without."""

    separate: bool = False
    sample: bool = True
    # Only for what is said about stopping it.
    detached: bool = False
