"""Commands in what is live: the messages of their WebSocket."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from shipoff.gateway.models.common import Incoming

# A connection between services lasts an hour at most, and the command with it.
LONGEST_S = 3300
_Part = Annotated[str, StringConstraints(max_length=8192)]


class InstanceIn(Incoming):
    """An instance that runs."""

    process: str = Field(default="", max_length=63, description="Empty: web, or the only process there is.")
    index: int = Field(default=0, ge=0, le=1000)


class CommandIn(Incoming):
    """The first message."""

    command: list[_Part] = Field(min_length=1, max_length=200, description="Arguments, the program first; no shell reads them.")
    time_limit_s: int = Field(default=900, ge=1, le=LONGEST_S)
    has_input: bool = Field(default=False, description="Binary messages follow: what the command reads.")
    instance: InstanceIn | None = Field(default=None, description="Absent: beside the instances, on its own.")
