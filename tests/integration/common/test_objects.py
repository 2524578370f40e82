"""The object store on a real folder."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shipoff.common.errors import DataLoss, NotFound, Unavailable
from shipoff.common.objects import ObjectStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ObjectStore]:
    async with ObjectStore.open(f"file://{tmp_path}/objects") as opened:
        yield opened


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_what_is_put_can_be_got_whole(store, tmp_path: Path):
    digest, size = await store.put_stream("a/b", chunks(b"hello ", b"world"))
    assert digest == f"sha256:{hashlib.sha256(b'hello world').hexdigest()}"
    assert size == 11
    await store.get_to_file("a/b", tmp_path / "out", digest=digest)
    assert (tmp_path / "out").read_bytes() == b"hello world"


async def test_bytes_of_another_digest_are_refused_and_not_kept(store, tmp_path: Path):
    await store.put_stream("a", chunks(b"hello"))
    with pytest.raises(DataLoss):
        await store.get_to_file("a", tmp_path / "out", digest="sha256:" + "0" * 64)
    assert not (tmp_path / "out").exists()


async def test_an_upload_that_fails_leaves_no_object(store):
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise RuntimeError("cut")

    with pytest.raises(Exception, match="cut"):
        await store.put_stream("a", broken())
    assert not await store.exists("a")


async def test_a_missing_object_is_not_found_and_deleting_it_is_fine(store):
    with pytest.raises(NotFound):
        await anext(store.get_stream("nothing"))
    await store.delete("nothing")


async def test_what_cannot_be_removed_is_the_store_s_failure(store, tmp_path: Path):
    # No file, and so nothing that an upload can have left: it cannot be unlinked.
    (tmp_path / "objects" / "a#1").mkdir()
    with pytest.raises(Unavailable):
        await store.delete("a")


async def test_a_moved_object_is_where_it_was_moved_to(store):
    await store.put_stream("a", chunks(b"x"))
    await store.move("a", "b")
    assert (await store.exists("a"), await store.exists("b")) == (False, True)


_HALF = """
import asyncio, sys
from shipoff.common.objects import ObjectStore

async def half():
    for _ in range(16):
        yield bytes(1 << 20)
    print("half", flush=True)
    await asyncio.Event().wait()

async def main():
    async with ObjectStore.open(sys.argv[1]) as store:
        await store.put_stream("incoming/a", half())

asyncio.run(main())
"""


async def test_what_a_killed_upload_left_goes_with_the_object(store, tmp_path: Path):
    url = f"file://{tmp_path}/objects"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _HALF, url, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 30) == b"half\n"
    process.kill()
    await process.wait()
    incoming = tmp_path / "objects" / "incoming"
    assert len(list(incoming.iterdir())) == 1
    await store.delete("incoming/a")
    assert list(incoming.iterdir()) == []
