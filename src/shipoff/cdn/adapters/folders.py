"""Release folders on the local disk, unpacked from archives in the object store."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shipoff.cdn import archive
from shipoff.cdn.archive import Caps
from shipoff.cdn.domain import Release
from shipoff.common.errors import DataLoss, Exhausted, InvalidInput
from shipoff.common.objects import ObjectStore

# Work in progress carries this name, which no deployment's id begins with.
_PART = ".part-"
_ABANDONED_S = 3600.0
_AT_ONCE = 2


class ReleaseFolders:
    """ports.Releases: `<root>/<deployment id>/`, readable by the edge's account."""

    def __init__(self, root: Path, objects: ObjectStore, *, caps: Caps, packed_bytes: int) -> None:
        self._root = root
        self._objects = objects
        self._caps = caps
        self._packed_bytes = packed_bytes
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def publish(self, release: Release) -> None:
        part = self._root / f"{_PART}{release.deployment_id}-{secrets.token_hex(4)}"
        async with self._slots:
            with _translated():
                await asyncio.to_thread(_make, part)
                try:
                    packed = part / "archive"
                    await self._fetch(release, packed)
                    contents = await asyncio.to_thread(archive.inspect, packed, self._caps)
                    await asyncio.to_thread(self._unpack, packed, contents, release.deployment_id)
                finally:
                    await asyncio.to_thread(shutil.rmtree, part, ignore_errors=True)

    async def _fetch(self, release: Release, packed: Path) -> None:
        digest, size = hashlib.sha256(), 0
        with packed.open("wb") as file:
            async for chunk in self._objects.get_stream(release.object_key):
                size += len(chunk)
                if size > self._packed_bytes:
                    raise InvalidInput(f"the artifact is larger than {self._packed_bytes >> 20} MiB", field="artifact")
                digest.update(chunk)
                await asyncio.to_thread(file.write, chunk)
        if release.digest != f"sha256:{digest.hexdigest()}":
            raise DataLoss(f"object {release.object_key} is not what its digest says", field="artifact.digest")

    def _unpack(self, packed: Path, contents: archive.Contents, deployment_id: str) -> None:
        fresh = packed.parent / "files"
        _make(fresh)
        archive.unpack(packed, contents, fresh, self._caps)
        try:
            fresh.rename(self._root / deployment_id)
        except OSError as error:
            # Somebody published the same at the same time.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise

    async def exists(self, deployment_id: str) -> bool:
        return await asyncio.to_thread((self._root / deployment_id).is_dir)

    async def remove(self, deployment_id: str) -> None:
        await asyncio.to_thread(self._remove, deployment_id)

    def _remove(self, deployment_id: str) -> None:
        gone = self._root / f"{_PART}{deployment_id}-gone-{secrets.token_hex(4)}"
        try:
            (self._root / deployment_id).rename(gone)
        except FileNotFoundError:
            return
        shutil.rmtree(gone, ignore_errors=True)

    async def clean(self) -> None:
        await asyncio.to_thread(self._clean)

    def _clean(self) -> None:
        for part in self._root.glob(f"{_PART}*"):
            if time.time() - part.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(part, ignore_errors=True)


def _make(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o755)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Exhausted("the disk for releases is full", retry_after_s=30.0) from error
        raise
