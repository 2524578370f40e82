"""Amounts in words for people. Used by the command line and by what builds say."""

from __future__ import annotations


def size(size_bytes: int) -> str:
    """A size in the unit that fits (IEC 80000-13): "512 B", "34.1 KiB", "2.0 MiB", "1.5 GiB"."""
    amount = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def counted(count: int, thing: str) -> str:
    """A number of things: "1 file", "2 files"."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
