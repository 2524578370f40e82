"""Keeps the project's secrets out of its logs: plain, and as tools write them (base64, hex, URLs, JSON, HTML, shells)."""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

SHORTEST = 6
MASK = "***"
# Base64 of fewer characters says too little to be recognised, and hides too much.
_SHORTEST_ENCODED = 6


class Masker:
    """Replaces every secret by ***."""

    def __init__(self, secrets: Iterable[str]) -> None:
        needles = {needle for secret in secrets for needle in _needles(secret)}
        # The longest first: one secret may begin with another.
        ordered = sorted(needles, key=lambda needle: (-len(needle), needle))
        self._pattern = re.compile("|".join(re.escape(needle) for needle in ordered)) if ordered else None
        self.longest = len(ordered[0]) if ordered else 0

    def mask(self, text: str) -> str:
        """The text without secrets."""
        return self._pattern.sub(MASK, text) if self._pattern else text

    def safe_cut(self, text: str, at: int) -> int:
        """The last position up to `at` where the text can be cut without cutting a secret in two."""
        if not self._pattern:
            return at
        # A secret that has only begun by the end of the text may be cut anywhere in its last characters.
        cut = min(at, len(text) - self.longest + 1)
        for match in self._pattern.finditer(text, max(0, cut - self.longest)):
            if match.start() < cut < match.end():
                # Never nothing: a secret that fills the line is cut behind its end.
                return match.start() or match.end()
        return cut


def _needles(secret: str) -> Iterable[str]:
    """What gives a value away: itself, its lines where it has several, and what tools make of them."""
    pieces = {secret, *(line.strip() for line in secret.splitlines())}
    for piece in pieces:
        if len(piece) >= SHORTEST:
            yield piece
            yield from _escaped(piece)
            yield from _in_base64(piece.encode())


def _escaped(value: str) -> Iterable[str]:
    """The value in hex (RFC 4648, section 8), in a URL (RFC 3986, 2.1) or a form, and in a string of JSON, HTML or a shell."""
    digits = value.encode().hex()
    yield from (digits, digits.upper())
    for encoded in (quote(value, safe=""), quote(value), quote_plus(value)):
        yield from (encoded, re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), encoded))
    for ascii_only in (True, False):
        quoted = json.dumps(value, ensure_ascii=ascii_only)[1:-1]
        yield from (quoted, quoted.replace("/", "\\/"))
    yield html.escape(value)
    # What a shell's trace shows between its quotes, and what repr() of Python and inspect() of Node show between theirs.
    yield shlex.quote(value)[1:-1] if shlex.quote(value) != value else value
    yield repr(value)[1:-1]


def _in_base64(value: bytes) -> Iterable[str]:
    """The characters that base64 shows of the value whatever stands before and after it (RFC 4648, section 4 and 5)."""
    for offset in range(3):
        whole = base64.b64encode(b"\0" * offset + value).decode().rstrip("=")
        # The first characters mix with what stands before, the last one or two with what follows.
        skipped = (0, 2, 3)[offset]
        mixed = (offset + len(value)) % 3 != 0
        core = whole[skipped : len(whole) - 1 if mixed else len(whole)]
        if len(core) >= _SHORTEST_ENCODED:
            yield core
            yield core.translate(str.maketrans("+/", "-_"))
