"""The verbs that run the platform itself: serve, up, down. shipoff.__main__ adds them to the client's."""

from __future__ import annotations

_STOP_S = 60.0
_KILL_S = 10.0
_LOG_BYTES = 10 << 20
