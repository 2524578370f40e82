"""Connections that open together: a few are read in each turn of the event loop, and the others wait. Used by web.py.

What a thousand of them say first would otherwise be read in one turn, and everybody whose connection is open would wait for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

# In one turn. Half of them are those that wait longest, half the newest: who comes into a burst does not wait for its end.
_AT_ONCE = 4


class Opening:
    """Those that wait to be read for the first time."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[PacedProtocol, bytes]] = deque()

    def add(self, connection: PacedProtocol, data: bytes) -> None:
        """Has it read in one of the next turns."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._turn)
        self._waiting.append((connection, data))

    def _turn(self) -> None:
        for take in (self._waiting.popleft, self._waiting.pop) * (_AT_ONCE // 2):
            if self._waiting:
                connection, data = take()
                connection.begin(data)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._turn)


class PacedProtocol(H11Protocol):
    """uvicorn's protocol, begun in its turn."""

    def __init__(self, *args: Any, opening: Opening, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._opening = opening
        self._begun = False

    def data_received(self, data: bytes) -> None:
        if self._begun:
            super().data_received(data)
            return
        self.transport.pause_reading()
        self._opening.add(self, data)

    def begin(self, data: bytes) -> None:
        """Its turn has come; nothing happens where the caller has left."""
        self._begun = True
        if not self.transport.is_closing():
            self.transport.resume_reading()
            super().data_received(data)
