"""Where this person's tokens are kept: one for each platform's URL, in a file only they can read."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_URL = "http://localhost:8080"


@dataclass(frozen=True)
class Credentials:
    """A platform and the token for it; an empty token means not signed in."""

    url: str
    token: str = field(repr=False)
    # What named each: an environment variable or an option; empty for what was saved, and for the default.
    url_from: str = field(default="", compare=False)
    signed_in_by: str = field(default="", compare=False)


def path() -> Path:
    """credentials.json in the XDG configuration folder (XDG Base Directory Specification)."""
    configured = os.environ.get("XDG_CONFIG_HOME", "")
    folder = Path(configured) if configured.startswith("/") else Path.home() / ".config"
    return folder / "shipoff" / "credentials.json"


def normal(url: str) -> str:
    """The URL as it is kept: without a slash at its end, scheme and host in lower case."""
    scheme, separator, rest = url.strip().rstrip("/").partition("://")
    if not separator:
        scheme, rest = "http", scheme
    host, slash, tail = rest.partition("/")
    return f"{scheme.lower()}://{host.lower()}{slash}{tail}"


def save(url: str, token: str) -> Path:
    """Keeps the token for this URL and makes the URL the default; returns the file. Other platforms' tokens stay."""
    kept = _read()
    tokens = {**_tokens(kept), normal(url): token}
    file = path()
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # mkstemp makes it 0600; the rename replaces a file whose mode or content was worse in one step.
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=".credentials-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as target:
            json.dump({"url": normal(url), "tokens": tokens}, target, indent=2, sort_keys=True)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return file


def load(url: str = "") -> Credentials:
    """What to use: SHIPOFF_URL and SHIPOFF_TOKEN before what was saved; `url` before both."""
    kept = _read()
    saved_url = kept.get("url")
    in_environment, token = os.environ.get("SHIPOFF_URL", "").strip(), os.environ.get("SHIPOFF_TOKEN", "").strip()
    chosen = normal(url or in_environment or (saved_url if isinstance(saved_url, str) else "") or DEFAULT_URL)
    return Credentials(
        chosen,
        token or _tokens(kept).get(chosen, ""),
        url_from="--url" if url else "SHIPOFF_URL" if in_environment else "",
        signed_in_by="SHIPOFF_TOKEN" if token else "",
    )


def _read() -> dict[str, object]:
    """The file's content; nothing when it is missing or broken: signing in again mends it."""
    try:
        content = json.loads(path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _tokens(content: dict[str, object]) -> dict[str, str]:
    tokens = content.get("tokens")
    return {str(url): str(token) for url, token in tokens.items()} if isinstance(tokens, dict) else {}
