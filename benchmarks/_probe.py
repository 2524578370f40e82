"""Reads one page of the API at a fixed rate, in a process of its own: what the burst's sender does must not slow it down.

Arguments: the gateway's socket, a path, a token, requests a second. It ends with its standard input, and writes one JSON line:
how long each answer took in seconds, from when it was due, and how many were no 200.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time


async def asked(socket: str, request: bytes) -> bytes:
    """The whole answer of HTTP/1.1, on a connection of its own."""
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        writer.write(request)
        return await reader.read()
    finally:
        writer.close()


async def main(socket: str, path: str, token: str, per_s: float) -> None:
    """Until standard input is at its end."""
    headers = ("Host: api.localhost", f"Authorization: Bearer {token}", "Connection: close")
    request = "\r\n".join([f"GET {path} HTTP/1.1", *headers, "", ""]).encode()
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    took_s: list[float] = []
    bad = 0

    async def ask(due: float) -> None:
        nonlocal bad
        bad += not (await asked(socket, request)).startswith(b"HTTP/1.1 200 ")
        took_s.append(time.monotonic() - due)

    began, asking, number = time.monotonic(), set(), 0
    while not ended.done():
        due = began + number / per_s
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        asking.add(asyncio.create_task(ask(due)))
        number += 1
    await asyncio.gather(*asking)
    print(json.dumps({"took_s": took_s, "bad": bad}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])))
