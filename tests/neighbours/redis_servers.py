"""Redis 7 beside Valkey: the same configuration and life, another program. For tests that have to hold on both."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from shipoff.embedded.layout import Layout, backing_account, prepare
from shipoff.embedded.valkey import Valkey

PASSWORD = "redis-7-of-the-tests"


class Redis7(Valkey):
    """A real Redis of version 7 with a data folder of its own."""

    def __init__(self, home: Path) -> None:
        home.mkdir(exist_ok=True)
        layout, account = Layout(home), backing_account()
        prepare(layout, account)
        super().__init__(layout, account, PASSWORD)

    def _binary(self) -> str:
        path = shutil.which("redis-server")
        assert path is not None, "ask missing() first"
        return path


def missing() -> str:
    """Why there is no Redis 7 here and how to get it; empty where there is."""
    path = shutil.which("redis-server")
    version = ""
    if path:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
        found = re.search(r"v=(\S+)", said)
        version = found[1] if found else "of no known version"
    if version.startswith("7."):
        return ""
    have = f"the one here is {version}" if version else "there is none here"
    return f"this needs Redis 7 and {have}: apt-get install redis-server (Debian 12, Ubuntu 24.04)"
