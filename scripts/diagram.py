"""Draws the state machine from its table into the pages that show it; `--check` only says whether they are current."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from shipoff.orchestrator.transitions import moves

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("ARCHITECTURE.md", "docs/guide/releases.md")
_BEGIN = "<!-- the states: written by scripts/diagram.py from orchestrator/transitions.py -->"
_END = "<!-- end of the states -->"


def diagram() -> str:
    """The table as a Mermaid state diagram: an arrow for each pair of states, with the events that take it."""
    arrows: dict[tuple[str, str], list[str]] = {("[*]", "queued"): ["accepted"]}
    for before, event, after in moves():
        words = re.sub(r"(?<!^)(?=[A-Z])", " ", event.__name__).lower()
        arrows.setdefault((before.value, after.value), []).append(words)
    lines = [f"    {before} --> {after}: {', '.join(words)}" for (before, after), words in arrows.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"])


def drawn(page: str) -> str:
    """The page with the diagram of today between its marks. Raises ValueError without marks."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"the page has no place for the diagram: {_BEGIN} … {_END}")
    return f"{before}{begin}\n{diagram()}\n{end}{after}"


def main(arguments: list[str]) -> int:
    """Writes or checks the pages; 1 when a checked one is not current."""
    stale = [name for name in PAGES if drawn((ROOT / name).read_text()) != (ROOT / name).read_text()]
    if arguments == ["--check"]:
        for name in stale:
            print(f"{name}: the state diagram is not the table's; `make diagram` draws it anew", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (ROOT / name).write_text(drawn((ROOT / name).read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
