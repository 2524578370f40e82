"""Python's byte code, compiled once at the build: every start would do it again, and it is half of a small app's start.

Called by the pipeline before it packs. The same sources give the same bytes: no times in it (PEP 552, unchecked hashes), no
name of the build's folder, and one seed for the order of sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shipoff.builder.assignment import Assignment
from shipoff.builder.enclosure import Program
from shipoff.builder.programs import Programs
from shipoff.builder.steps import base_environment

_INTERPRETER = Path(".venv") / "bin" / "python"


def interpreter(folders: Sequence[Path]) -> Path | None:
    """The interpreter of the first virtual environment in these folders; None where nothing is of Python."""
    return next((folder / _INTERPRETER for folder in folders if (folder / _INTERPRETER).exists()), None)


async def compile_all(programs: Programs, assignment: Assignment, python: Path, source: Path) -> None:
    """Compiles every module below the source. One that cannot be compiled stays as it is, and fails where it is used."""
    argv = [str(python), "-P", "-m", "compileall", "-qq", "-f", "--invalidation-mode", "unchecked-hash", "-s", str(source)]
    environment = {**base_environment(assignment), "PYTHONHASHSEED": "0"}
    await programs.run(Program([*argv, str(source)], source, environment), quiet=True)
