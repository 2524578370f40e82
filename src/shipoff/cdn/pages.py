"""The few pages that the edge answers with itself. Nothing of a request is repeated in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    "<title>{title}</title>"
    "<style>body{{font:16px/1.5 system-ui,sans-serif;margin:20vh auto;max-width:32em;padding:0 1em}}"
    "@media(prefers-color-scheme:dark){{body{{background:#111;color:#eee}}}}</style>"
    "<h1>{title}</h1><p>{text}</p></html>\n"
)


def _page(title: str, text: str) -> str:
    return _PAGE.format(title=title, text=text)


NO_APP = _page("There is no app here", "No app answers at this address. Is the name right, and is the app deployed?")
NO_FILE = _page("Not found", "There is no such page here.")
NO_ANSWER = _page("No answer", "The app behind this address does not answer right now.")
PAUSED = _page("Paused", "The app behind this address is paused. It comes back when its team resumes it.")
REFUSED = _page("That did not work", "The request was refused.")


def response(status: int | str, page: str, headers: Mapping[str, list[str]] | None = None) -> dict[str, Any]:
    """Caddy's handler that answers with a page."""
    return {
        "handler": "static_response",
        "status_code": str(status),
        "headers": {
            "Content-Type": ["text/html; charset=utf-8"],
            "Cache-Control": ["no-store"],
            "X-Content-Type-Options": ["nosniff"],
            "Content-Security-Policy": ["default-src 'none'; style-src 'unsafe-inline'"],
            **(headers or {}),
        },
        "body": page,
    }
