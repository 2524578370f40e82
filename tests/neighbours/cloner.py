"""`python -m neighbours.cloner <work folder> <url> <allowed host> [<what every name resolves to>]`: clones as a builder does.

In a process of its own: a builder ends every process that came of it, and tests have their servers among theirs. It prints the
commit, or why there is none.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from shipoff.builder.assignment import Assignment, BuildError
from shipoff.builder.cloning import Cloning, clone
from shipoff.builder.confine import TenantFiles
from shipoff.builder.journal import Journal
from shipoff.builder.programs import Programs
from shipoff.builder.steps import base_environment
from shipoff.contracts.types.v1 import types_pb2


async def cloned(work: Path, url: str, *allowed: str) -> str:
    """Clones into `work`/source."""
    (work / "tmp").mkdir(parents=True, exist_ok=True)
    (work / "home").mkdir(exist_ok=True)
    assignment = Assignment("", "", "test/1", str(work), str(work / "caches"), None, "/usr/local/bin:/usr/bin:/bin")
    cloning = Cloning(Programs(Journal(1 << 20), assignment), TenantFiles(None), base_environment(assignment), allowed)
    try:
        return await clone(cloning, types_pb2.GitSource(url=url), work / "source")
    except BuildError as error:
        return f"refused: {error.reason}"


def main(work: str, url: str, allowed: str, address: str = "") -> None:
    if address:

        def resolve(_host: str, port: int, **_: Any) -> list[Any]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

        mock.patch.object(socket, "getaddrinfo", resolve).start()
    print(asyncio.run(cloned(Path(work), url, allowed)))


if __name__ == "__main__":
    main(*sys.argv[1:])
