"""Reads `.env` files: NAME=value lines with quotes, comments and `export`.

The common ground of the dialects in use (docker compose, Node's --env-file, python-dotenv), without variable expansion: a
value is stored as it stands.
"""

from __future__ import annotations

import re

from shipoff.cli.errors import UsageFailure

_NAME = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*")
_BLANK = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_BARE = re.compile(r"[^\n]*")
_COMMENT_IN_BARE = re.compile(r"(?:^|[ \t]+)#.*\Z")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$"}


def parse(text: str) -> dict[str, str]:
    """The variables in the file's order; a later line wins.

    Single quotes keep everything; double quotes know \\n, \\r, \\t, \\" and \\\\; both may span lines. Without quotes, " #"
    begins a comment. Raises UsageFailure with the line's number.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    variables: dict[str, str] = {}
    position = 0
    while position < len(text):
        blank = _BLANK.match(text, position)
        if blank:
            position = blank.end()
            continue
        name = _NAME.match(text, position)
        if name is None:
            raise _wrong(text, position, "is no NAME=value")
        variables[name[1]], position = _value(text, name.end())
    return variables


def _value(text: str, start: int) -> tuple[str, int]:
    """The value that begins at `start`, and where the next line begins."""
    if text[start : start + 1] in ("'", '"'):
        return _quoted(text, start)
    bare = _BARE.match(text, start)
    assert bare is not None  # it matches everywhere
    return _COMMENT_IN_BARE.sub("", bare[0]).rstrip(), bare.end() + 1


def _quoted(text: str, start: int) -> tuple[str, int]:
    quote = text[start]
    value: list[str] = []
    position = start + 1
    while position < len(text) and text[position] != quote:
        following = text[position + 1 : position + 2]
        if quote == '"' and text[position] == "\\" and following in _ESCAPES and following:
            value.append(_ESCAPES[following])
            position += 2
        else:
            value.append(text[position])
            position += 1
    if position >= len(text):
        raise _wrong(text, start, f"opens {quote} and never closes it")
    rest = _BLANK.match(text, position + 1)
    if rest is None:
        raise _wrong(text, start, "has something after the closing quote")
    return "".join(value), rest.end()


def _wrong(text: str, position: int, why: str) -> UsageFailure:
    """Names the line and not its content: that may be a secret."""
    return UsageFailure(f"line {text.count(chr(10), 0, position) + 1} {why}", remedy="write NAME=value, one a line")
