"""Literals in a JavaScript or TypeScript configuration file, found by its tokens.

Reads object literals only (`key: "text"`, `key: true`), wherever they are; what is computed is left alone.
Grammar: ECMA-262, chapter 12 (lexical grammar), without regular expressions.
"""

from __future__ import annotations

import re

MAX_CHARACTERS = 64 << 10
_MAX_DEPTH = 8
_TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|/\*.*?(?:\*/|\Z))
    |(?P<string>"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?|`(?:\\.|[^`\\])*`?)
    |(?P<word>[A-Za-z_$][\w$]*)
    |(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)


def _tokens(source: str) -> list[tuple[str, str]]:
    found = ((str(match.lastgroup), match.group()) for match in _TOKEN.finditer(source[:MAX_CHARACTERS]))
    return [(kind, value) for kind, value in found if kind != "skip"]


def literals(source: str) -> dict[str, str]:
    """Dotted key → literal value ("true" and "false" for booleans), the first of each key."""
    tokens = _tokens(source)
    found: dict[str, str] = {}
    path: list[str] = []
    for index, (kind, value) in enumerate(tokens):
        if value in ("{", "[", "("):
            path.append(_key_before(tokens, index))
        elif value in ("}", "]", ")") and path:
            path.pop()
        elif len(path) > _MAX_DEPTH:
            continue
        elif (kind == "string" or value in ("true", "false")) and (key := _key_before(tokens, index)):
            dotted = ".".join([part for part in path if part] + [key])
            found.setdefault(dotted, _plain(value) if kind == "string" else value)
    return {key: value for key, value in found.items() if value}


def _key_before(tokens: list[tuple[str, str]], index: int) -> str:
    """The key in `key: <token at index>`."""
    if index < 2 or tokens[index - 1][1] != ":":
        return ""
    kind, value = tokens[index - 2]
    return value if kind == "word" else _plain(value) if kind == "string" else ""


def _plain(literal: str) -> str:
    """A string without quotes; empty when it holds an escape or an expression."""
    inner = literal[1:-1] if len(literal) > 1 and literal[-1] == literal[0] else ""
    return "" if "\\" in inner or "${" in inner else inner
