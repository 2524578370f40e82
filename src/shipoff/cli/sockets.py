"""WebSockets of the platform, with the person's token. Used by whatever follows something."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from websockets.sync.client import ClientConnection, connect

from shipoff.cli.client import Api, dialled, is_this_machine

_MESSAGE_BYTES = 16 << 20
_OPEN_S = 10.0
_CLOSE_S = 1.0


def opened(api: Api, path: str) -> ClientConnection:
    """The connection at this path. Raises WebSocketException, OSError."""
    target = f"ws{api.url.removeprefix('http')}"
    address = urlsplit(dialled(target)[0])
    # The Host header comes from the URL; the connection goes to where its name leads.
    dial: dict[str, Any] = (
        {"address": (address.hostname, address.port or 80)} if address.netloc != urlsplit(target).netloc else {}
    )
    connection: ClientConnection = connect(
        f"{target}{path}",
        additional_headers={name: value for name, value in api.headers.items() if name == "Authorization"},
        open_timeout=_OPEN_S,
        close_timeout=_CLOSE_S,
        max_size=_MESSAGE_BYTES,
        proxy=None if is_this_machine(target) else True,
        user_agent_header="shipoff-cli",
        **dial,
    )
    return connection
