"""Values of commands that are run once in a release: what is run, what it writes, how it ends. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A program that is run once in a release, to its end or for `limit_s` at most."""

    argv: tuple[str, ...]
    limit_s: float
    # Input follows; without, it reads nothing.
    has_input: bool = False
    # The instance that it runs in (process, index); None: beside them. An empty process: `web`, or the only one.
    within: tuple[str, int] | None = None


@dataclass(frozen=True)
class Output:
    """What a command wrote, to "stdout" or "stderr"."""

    channel: str
    data: bytes


@dataclass(frozen=True)
class Exited:
    """How a command ended, as a shell has it; why the platform ended it, where it did."""

    code: int
    reason: str = ""
