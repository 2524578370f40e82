"""What an app prints, made safe for a terminal: colours stay, everything that steers the terminal goes.

Sequences as in ECMA-48 and xterm's "Control Sequences".
"""

from __future__ import annotations

import re

_SEQUENCE = re.compile(
    r"\x1b\[([0-?]*)[ -/]*([@-~])"  # CSI: cursor, clearing, colours
    r"|\x9b([0-?]*)[ -/]*([@-~])"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c|\Z)?"  # OSC, DCS, …: titles, links, clipboard
    r"|\x1b[ -/]*[0-~]?"  # everything else that begins with ESC
)
# C0 without tab, DEL, C1, and the marks that turn the direction of text around.
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_RESET = "\x1b[0m"
# Bold, dim, italic, underline and their ends, colours; not blink (5, 6) and conceal (8).
_ALLOWED = frozenset(
    [0, 1, 2, 3, 4, 7, 22, 23, 24, 27, *range(30, 38), 39, *range(40, 48), 49, *range(90, 98), *range(100, 108)]
)
_EXTENDED = {38, 48}
_EXTENDED_LENGTH = {"5": 3, "2": 5}


def safe(text: str, *, colours: bool = False) -> str:
    """One line that is safe to print; of its escape sequences at most colours are left, closed at the end."""
    # What a carriage return overwrites would not be seen on a terminal either (progress bars).
    line = text.rstrip("\r\n").rsplit("\r", 1)[-1]
    parts: list[str] = []
    position = 0
    coloured = False
    for match in _SEQUENCE.finditer(line):
        parts.append(_CONTROL.sub("", line[position : match.start()]))
        position = match.end()
        colour = _colour(match) if colours else ""
        coloured = coloured or bool(colour)
        parts.append(colour)
    parts.append(_CONTROL.sub("", line[position:]))
    return "".join(parts) + (_RESET if coloured else "")


def _colour(match: re.Match[str]) -> str:
    """The sequence with only what is a colour or a weight, or nothing."""
    parameters, final = (match[1], match[2]) if match[2] else (match[3], match[4])
    if final != "m":
        return ""
    kept = _kept((parameters or "0").split(";"))
    return f"\x1b[{';'.join(kept)}m" if kept else ""


def _kept(codes: list[str]) -> list[str]:
    kept: list[str] = []
    while codes:
        code = codes.pop(0) or "0"
        if not (code.isascii() and code.isdigit()) or len(code) > 3:
            continue
        if int(code) in _EXTENDED:
            length = _EXTENDED_LENGTH.get(codes[0] if codes else "", 1)
            extra, codes = codes[: length - 1], codes[length - 1 :]
            if len(extra) == length - 1 > 0 and all(part.isascii() and part.isdigit() for part in extra):
                kept += [code, *extra]
        elif int(code) in _ALLOWED:
            kept.append(code)
    return kept
