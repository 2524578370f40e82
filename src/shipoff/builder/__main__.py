"""`python -m shipoff.builder`: reads its assignment, builds, exits 0 when the outcome was delivered.

A child process finds it at its standard input, a pod in its environment, which `confine` closes to everything that it starts.
"""

from __future__ import annotations

import asyncio
import encodings.idna  # noqa: F401 - a name lookup under the tenant's rights could not read it any more
import os
import sys
from pathlib import Path

from shipoff.builder.assignment import Assignment
from shipoff.builder.conduct import conduct
from shipoff.builder.confine import confine

# Set by shipoff.build.manifests.builder.
_ASSIGNMENT = "SHIPOFF_BUILDER_ASSIGNMENT"


def main() -> int:
    """The program; its exit code."""
    text = os.environ.pop(_ASSIGNMENT, "") or sys.stdin.read()
    if not text:
        # The service went away before it had written down that this process exists.
        return 1
    assignment = Assignment.from_json(text)
    confine(assignment.limits, uid=assignment.uid)
    # A pod brings an empty volume.
    Path(assignment.work).mkdir(mode=0o700, exist_ok=True)
    return 0 if asyncio.run(conduct(assignment)) else 1


if __name__ == "__main__":
    sys.exit(main())
