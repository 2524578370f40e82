"""The runtime alone in a process, with settings from the environment: what the fault tests kill."""

from __future__ import annotations

import asyncio
import sys

from neighbours.runtime import QUICK

from shipoff.common.lifecycle import until_signal
from shipoff.runtime.main import running
from shipoff.runtime.settings import RuntimeSettings


async def main() -> None:
    async with running(RuntimeSettings(), policy=QUICK):
        sys.stdout.write("running\n")
        sys.stdout.flush()
        await until_signal()


asyncio.run(main())
