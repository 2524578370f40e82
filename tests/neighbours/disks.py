"""Small disks that fill up, and are made larger: tmpfs (tmpfs(5))."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Disk:
    """A file system of its own."""

    folder: Path

    def resize(self, size_mib: int) -> None:
        """More room, or less."""
        _mount("-o", f"remount,size={size_mib}m", str(self.folder))


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True, timeout=30)


@contextmanager
def small_disk(folder: Path, size_mib: int) -> Iterator[Disk]:
    """One of that size, below this folder. Skips the test where no file system may be mounted."""
    folder.mkdir(parents=True)
    try:
        _mount("-t", "tmpfs", "-o", f"size={size_mib}m,mode=0711", "tmpfs", str(folder))
    except (OSError, subprocess.CalledProcessError) as error:
        folder.rmdir()
        pytest.skip(f"a disk that can be filled needs the right to mount one: {error}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True, timeout=30)
        folder.rmdir()
