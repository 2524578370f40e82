"""One platform per data folder: an advisory lock that ends with its holder, whatever ends it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from shipoff.common.errors import PreconditionFailed
from shipoff.embedded.layout import Layout


@contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """Holds the lock for the block. Raises PreconditionFailed when another platform runs in this folder."""
    with layout.lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _written(layout)
            raise PreconditionFailed(
                f"Shipoff runs already in {layout.home}, as process {holder or 'unknown'}", remedy="`make down` stops it"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def holder(layout: Layout) -> int | None:
    """The process that runs the platform in this folder; None when none does. It holds the lock, so the pid is its own."""
    if not layout.lock.exists():
        return None
    with layout.lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _written(layout)
    return None


def _written(layout: Layout) -> int | None:
    text = layout.lock.read_text().strip()
    return int(text) if text.isdigit() else None
