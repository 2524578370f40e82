"""The object store: a local folder, memory or S3, behind one small face."""

from __future__ import annotations

import asyncio
import glob
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from shipoff.common.config import load
from shipoff.common.errors import DataLoss, NotFound, Unavailable

CHUNK_BYTES = 1 << 20
_CONNECT_S = 10.0
_NO_SPACE = ("No space left", "os error 28")


class StoreSettings(BaseSettings):
    """SHIPOFF_OBJECTS_…: how long a store may take, and how S3 is reached. The bucket stands in SHIPOFF_OBJECTS_URL."""

    model_config = SettingsConfigDict(env_prefix="SHIPOFF_OBJECTS_", frozen=True, extra="ignore")

    # Where S3 answers, http://… or https://…; empty: at Amazon.
    endpoint: str = ""
    region: str = "us-east-1"
    # Empty: what the machine itself has been given (AWS_ACCESS_KEY_ID and others, an instance's role).
    access_key_id: str = ""
    secret_access_key: SecretStr = SecretStr("")
    # A request that fails, with 500 or 503 among others, is made again for so long.
    retry_s: float = Field(default=20.0, gt=0)
    # An object has to be stored within this time, and each MiB of one that is read has to come within the other.
    timeout_s: float = Field(default=300.0, gt=0)
    stall_s: float = Field(default=60.0, gt=0)


def _s3(url: str, settings: StoreSettings) -> Any:
    config: dict[str, Any] = {"region": settings.region, "endpoint": settings.endpoint, "access_key_id": settings.access_key_id}
    config["secret_access_key"] = settings.secret_access_key.get_secret_value()
    client: dict[str, Any] = {
        "allow_http": settings.endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=_CONNECT_S),
        "timeout": timedelta(seconds=settings.timeout_s),
    }
    retry: dict[str, Any] = {"max_retries": 10, "retry_timeout": timedelta(seconds=settings.retry_s)}
    chosen = {name: value for name, value in config.items() if value}
    options: Any = {"config": chosen, "client_options": client, "retry_config": retry}
    return S3Store.from_url(url, **options)


@contextmanager
def _translated(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"there is no object {key}") from error
    except TimeoutError as error:
        raise Unavailable("the object store is too slow, or does not answer", retry_after_s=5.0) from error
    except (BaseError, OSError) as error:
        if any(sign in str(error) for sign in _NO_SPACE):
            remedy = "free some room on its disk, then try again"
            raise Unavailable("the object store's disk is full", retry_after_s=30.0, remedy=remedy) from error
        raise Unavailable(f"the object store does not answer: {error}", retry_after_s=2.0) from error


class ObjectStore:
    """Objects by key. Contents are never changed in place; a key appears whole or not at all."""

    def __init__(self, store: Any, settings: StoreSettings, folder: Path | None = None) -> None:
        self._store = store
        self._settings = settings
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
        parsed, settings = urlparse(url), load(StoreSettings)
        if parsed.scheme == "file":
            yield cls(LocalStore(parsed.path, mkdir=True), settings, Path(parsed.path))
        else:
            yield cls(_s3(url, settings), settings)

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
            async with asyncio.timeout(self._settings.timeout_s):
                await obstore.put_async(self._store, key, counted())
        return f"sha256:{digest.hexdigest()}", size

    async def put_file(self, key: str, path: Path) -> tuple[str, int]:
        """Stores a file; returns ("sha256:<hex>", size in bytes)."""
        return await self.put_stream(key, _read(path))

    async def get_stream(self, key: str) -> AsyncIterator[bytes]:
        """The object's bytes in chunks of about 1 MiB. Raises NotFound."""
        with _translated(key):
            async with asyncio.timeout(self._settings.stall_s):
                result = await obstore.get_async(self._store, key)
            chunks = aiter(result.stream(min_chunk_size=CHUNK_BYTES))
            while True:
                async with asyncio.timeout(self._settings.stall_s):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    return
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
        try:
            with _translated(key):
                if self._folder is not None:
                    await asyncio.to_thread(_remove_staged, self._folder / key)
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
