"""Node.js, which some example apps need: a machine of one's own may lack it, the one of the CI may not."""

from __future__ import annotations

import os
import shutil

import pytest

_PROGRAMS = ("node", "npm")


def require() -> None:
    """Skips the test where Node is missing; fails it where CI=true, so that nobody believes it was run."""
    lacking = [name for name in _PROGRAMS if shutil.which(name) is None]
    if not lacking:
        return
    reason = f"this machine lacks {' and '.join(lacking)}, which this example needs: install Node.js 20 or newer"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
