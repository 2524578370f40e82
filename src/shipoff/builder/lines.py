"""Turns a program's output into log lines: decoded, masked, at most 16 KiB each."""

from __future__ import annotations

import codecs

from shipoff.builder.masking import Masker

LINE_BYTES = 16 << 10
# Characters take up to four bytes; the contract counts bytes.
_WIDEST = 4


class LineSplitter:
    """Feed it chunks, take whole lines; invalid UTF-8 and NUL become the replacement character."""

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that this chunk completes."""
        text = self._rest + self._decoder.decode(chunk).replace("\0", "�")
        # A carriage return that ends a chunk may be the first half of a line's end.
        held = "\r" if text.endswith("\r") else ""
        text = text[: len(text) - len(held)].replace("\r\n", "\n").replace("\r", "\n")
        *whole, last = text.split("\n")
        lines = [piece for line in whole for piece in self._pieces(line)]
        while len(last) > LINE_BYTES + self._masker.longest:
            cut = self._masker.safe_cut(last, LINE_BYTES)
            lines.extend(self._pieces(last[:cut]))
            last = last[cut:]
        self._rest = last + held
        return lines

    def end(self) -> list[str]:
        """What is left when the output ends without a line's end."""
        text = (self._rest + self._decoder.decode(b"", final=True)).rstrip("\r")
        self._rest = ""
        return self._pieces(text) if text else []

    def _pieces(self, line: str) -> list[str]:
        masked = self._masker.mask(line)
        width = LINE_BYTES if masked.isascii() else LINE_BYTES // _WIDEST
        if len(masked) <= width:
            return [masked]
        return [masked[at : at + width] for at in range(0, len(masked), width)]
