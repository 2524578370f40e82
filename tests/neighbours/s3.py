"""A real S3 server: `rclone serve s3` on a folder whose sub-folders are the buckets."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from neighbours.ports import free_port

KEY_ID, SECRET = "shipoff-test", "correct-horse-battery"
BUCKET = "shipoff"
_PROGRAM = Path(sys.executable).parent / "rclone"
_STARTS_S = 60.0


@dataclass(frozen=True)
class S3:
    """Where it answers, and where the bucket's objects lie."""

    address: str
    folder: Path

    @property
    def url(self) -> str:
        """SHIPOFF_OBJECTS_URL."""
        return f"s3://{BUCKET}/objects"

    def objects(self) -> list[str]:
        """The keys that are there."""
        root = self.folder / BUCKET / "objects"
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def settings(address: str, **changes: float) -> dict[str, str]:
    """The environment of a service that reaches S3 at this address."""
    values = {"ENDPOINT": f"http://{address}", "ACCESS_KEY_ID": KEY_ID, "SECRET_ACCESS_KEY": SECRET}
    values |= {name.upper(): str(value) for name, value in changes.items()}
    return {f"SHIPOFF_OBJECTS_{name}": value for name, value in values.items()}


@asynccontextmanager
async def s3_serving(folder: Path) -> AsyncIterator[S3]:
    """Serves until the block is left."""
    (folder / BUCKET).mkdir(parents=True)
    address = f"127.0.0.1:{free_port()}"
    command = [str(_PROGRAM), "serve", "s3", "--addr", address, "--auth-key", f"{KEY_ID},{SECRET}", "--config", "/dev/null"]
    child = subprocess.Popen([*command, str(folder)], stderr=subprocess.DEVNULL)  # noqa: ASYNC220 - started at once
    try:
        async with asyncio.timeout(_STARTS_S):
            while not await _answers(address):
                assert child.poll() is None, "rclone has ended"
                await asyncio.sleep(0.05)
        yield S3(address, folder)
    finally:
        child.kill()
        child.wait()


async def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    return True


@asynccontextmanager
async def refusing(status: int) -> AsyncIterator[str]:
    """The address of a server that answers every request with this status, as S3 does when it has too much to do."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            body = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your rate</Message></Error>"
            writer.write(f"HTTP/1.1 {status} No\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
