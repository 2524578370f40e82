"""Whether tests of what bubblewrap keeps apart can be run on this machine."""

from __future__ import annotations

import os

import pytest

from shipoff.common.sandbox import bubblewrap

_FORBIDDEN = ("Operation not permitted", "Permission denied", "No space left")


def require_sandbox() -> None:
    """Skips the test where there is none; in CI only where the kernel forbids it."""
    program, problem = bubblewrap()
    if program:
        return
    if os.environ.get("CI") and not any(sign in problem for sign in _FORBIDDEN):
        pytest.fail(f"{problem}: .ci/run installs it, and this kernel forbids nothing that it needs")
    pytest.skip(problem)
