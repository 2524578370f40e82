"""The object store: a local folder, memory or S3, behind one small face."""

from __future__ import annotations

import asyncio
import glob
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from shipoff.common.errors import DataLoss, Exhausted, NotFound, Unavailable

CHUNK_BYTES = 1 << 20
_OPERATION_S = 300.0
_NO_SPACE = ("No space left", "os error 28")


@contextmanager
def _translated(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"there is no object {key}") from error
    except (BaseError, OSError, TimeoutError) as error:
        if any(sign in str(error) for sign in _NO_SPACE):
            raise Exhausted("the object store is full", retry_after_s=30.0) from error
        raise Unavailable(f"the object store does not answer: {error}", retry_after_s=2.0) from error


class ObjectStore:
    """Objects by key. Contents are never changed in place; a key appears whole or not at all."""

    def __init__(self, store: Any, folder: Path | None = None) -> None:
        self._store = store
        # Where the objects are files.
        self._folder = folder

    @staticmethod
    def folders(url: str) -> tuple[Path, ...]:
        """The folder of a file:// URL; none of any other."""
        parsed = urlparse(url)
        return (Path(parsed.path),) if parsed.scheme == "file" else ()

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[ObjectStore]:
        """Opens file:///folder (made where it is missing) or s3://bucket/prefix."""
        parsed = urlparse(url)
        if parsed.scheme == "file":
            yield cls(LocalStore(parsed.path, mkdir=True), Path(parsed.path))
        else:
            yield cls(from_url(url))

    async def put_stream(self, key: str, chunks: AsyncIterator[bytes]) -> tuple[str, int]:
        """Stores what the iterator gives; returns ("sha256:<hex>", size in bytes). What raises leaves nothing behind."""
        digest = hashlib.sha256()
        size = 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal size
            async for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
                yield chunk

        with _translated(key):
            async with asyncio.timeout(_OPERATION_S):
                await obstore.put_async(self._store, key, counted())
        return f"sha256:{digest.hexdigest()}", size

    async def put_file(self, key: str, path: Path) -> tuple[str, int]:
        """Stores a file; returns ("sha256:<hex>", size in bytes)."""
        return await self.put_stream(key, _read(path))

    async def get_stream(self, key: str) -> AsyncIterator[bytes]:
        """The object's bytes in chunks of about 1 MiB. Raises NotFound."""
        with _translated(key):
            result = await obstore.get_async(self._store, key)
            async for chunk in result.stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)

    async def get_to_file(self, key: str, path: Path, *, digest: str = "") -> None:
        """Writes the object to `path`. Raises NotFound, and DataLoss when it is not the object of that digest."""
        actual = hashlib.sha256()
        with path.open("wb") as file:
            async for chunk in self.get_stream(key):
                actual.update(chunk)
                await asyncio.to_thread(file.write, chunk)
        if digest and digest != f"sha256:{actual.hexdigest()}":
            await asyncio.to_thread(path.unlink)
            raise DataLoss(f"object {key} is not what its digest says")

    async def move(self, source: str, target: str) -> None:
        """Renames an object, over an existing one."""
        with _translated(source):
            await obstore.rename_async(self._store, source, target)

    async def exists(self, key: str) -> bool:
        """Whether the key is there."""
        try:
            with _translated(key):
                await obstore.head_async(self._store, key)
        except NotFound:
            return False
        return True

    async def changed_at(self, key: str) -> datetime:
        """When the object was stored last, by the store's clock. Raises NotFound."""
        with _translated(key):
            found: datetime = (await obstore.head_async(self._store, key))["last_modified"]
        return found

    async def delete(self, key: str) -> None:
        """Removes the object, and what a process that was killed while it put it left of it; fine when there is neither."""
        if self._folder is not None:
            await asyncio.to_thread(_remove_staged, self._folder / key)
        try:
            with _translated(key):
                await obstore.delete_async(self._store, key)
        except NotFound:
            return


def _remove_staged(path: Path) -> None:
    """The local store writes to `<key>#<number>` and renames it at the end."""
    for staged in path.parent.glob(f"{glob.escape(path.name)}#*"):
        staged.unlink(missing_ok=True)


async def _read(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk
