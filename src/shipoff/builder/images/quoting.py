"""What stands in a generated Dockerfile, checked and quoted: nothing that a user wrote can add an instruction. Pure.

Called by dockerfile.py, and by whoever has to know whether a text may name an image.
"""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from collections.abc import Iterable

ROOT = "/app"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_IDENTIFIER = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_REFERENCE = re.compile(r"[a-z0-9][A-Za-z0-9._:/@-]{0,511}")
# What a process's command may hold of the address that it listens on.
ADDRESS = re.compile(r"\$(?:\{(PORT|HOST)\}|(PORT|HOST)(?![A-Za-z0-9_]))")


class Refused(Exception):
    """The plan cannot be written down safely: one sentence for the user, with what to change."""


def shell_word(word: str) -> str:
    """The argument, quoted for a POSIX shell; only $PORT and $HOST are left to be filled in."""
    pieces, end = [], 0
    for found in ADDRESS.finditer(word):
        pieces += [word[end : found.start()], f'"${{{found[1] or found[2]}}}"']
        end = found.end()
    pieces.append(word[end:])
    # Every other piece is what stands between.
    return "".join(piece if at % 2 else shlex.quote(piece) if piece else "" for at, piece in enumerate(pieces)) or "''"


def exec_form(argv: Iterable[str]) -> str:
    """The exec form. Raises Refused.

    JSON escapes line ends and quotes: it stays one line whatever it holds, and begins no here-document.
    """
    return json.dumps([checked(word) for word in argv]).replace("<<", "\\u003c\\u003c")


def checked(text: str) -> str:
    """The text itself. Raises Refused for one with a NUL character."""
    if "\0" in text:
        raise Refused("a command or a variable of the plan holds a NUL character: remove it")
    return text


def variable_name(text: str) -> str:
    """The name itself. Raises Refused for what is no name of a variable."""
    if not _NAME.fullmatch(text):
        raise Refused(f"{text!r} is no name for a variable in a build: use letters, digits and _")
    return text


def identifier(text: str) -> str:
    """The id of a cache's owner itself. Raises Refused."""
    if not _IDENTIFIER.fullmatch(text):
        raise Refused(f"{text!r} is no name for a cache's owner")
    return text


def is_reference(text: str) -> bool:
    """Whether it may name an image: nothing in it that ends a word or begins another part of an argument."""
    return bool(_REFERENCE.fullmatch(text))


def image_reference(text: str) -> str:
    """The reference itself, or `scratch`. Raises Refused."""
    if text != "scratch" and not is_reference(text):
        raise Refused(f"{text!r} is no reference of an image")
    return text


def folder_inside(folder: str, what: str) -> str:
    """The path in the image of a folder of the source. Raises Refused."""
    if folder in ("", "."):
        return ROOT
    normal = posixpath.normpath(folder)
    odd = any(not part.isprintable() or part != part.strip() for part in normal.split("/"))
    if odd or "\\" in normal or normal.startswith(("/", "..")):
        raise Refused(f"{what} {folder!r} cannot be built into an image: give it a name of letters, digits, - and _")
    return f"{ROOT}/{normal}"


def escaped(path: str) -> str:
    """The path as WORKDIR and ENV take it: one word, nothing in it expanded."""
    return re.sub(r"([ $\"'#])", r"\\\1", path)
