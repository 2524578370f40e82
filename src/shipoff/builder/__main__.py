"""`python -m shipoff.builder`: reads its assignment from standard input, builds, exits 0 when the outcome was delivered."""

from __future__ import annotations

import asyncio
import encodings.idna  # noqa: F401 - a name lookup under the tenant's rights could not read it any more
import sys

from shipoff.builder.assignment import Assignment
from shipoff.builder.conduct import conduct
from shipoff.builder.confine import confine


def main() -> int:
    """The program; its exit code."""
    text = sys.stdin.read()
    if not text:
        # The service went away before it had written down that this process exists.
        return 1
    assignment = Assignment.from_json(text)
    confine(assignment.limits, uid=assignment.uid)
    return 0 if asyncio.run(conduct(assignment)) else 1


if __name__ == "__main__":
    sys.exit(main())
