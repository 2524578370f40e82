"""Backups of the chart's own PostgreSQL: every service's database as SQL, and back. The verb `backing` calls it in its pod."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from shipoff.common.errors import Unavailable
from shipoff.embedded import binaries
from shipoff.embedded.layout import Layout, backing_account
from shipoff.embedded.postgres import SERVICES, SUPERUSER
from shipoff.embedded.process import environment


def dump(layout: Layout, port: int, password: str) -> None:
    """Writes every database to standard output, each as it was at one moment. Raises Unavailable when one cannot be read.

    https://www.postgresql.org/docs/18/app-pgdump.html: with what makes the database anew, its rights included.
    """
    for name in SERVICES:
        _run(layout, password, "pg_dump", (f"--port={port}", "--create", "--clean", "--if-exists", name))


def restore(layout: Layout, port: int, password: str) -> None:
    """Reads what `dump` wrote from standard input; nobody may be connected. Raises Unavailable where something fails."""
    quietly = ("--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--output", os.devnull)
    _run(layout, password, "psql", (f"--port={port}", *quietly, SUPERUSER))


def _run(layout: Layout, password: str, program: str, arguments: Sequence[str]) -> None:
    folder = binaries.postgres(layout, backing_account())
    at = ("--host", str(layout.sockets("postgres")), "--username", SUPERUSER, "--no-password")
    environ: Mapping[str, str] = environment(PGPASSWORD=password)
    sys.stdout.flush()
    if (code := subprocess.run([str(folder / program), *at, *arguments], env=environ, check=False).returncode) != 0:
        raise Unavailable(f"{program} ended with {code}", remedy="what it said stands above; does the server run in this pod?")
