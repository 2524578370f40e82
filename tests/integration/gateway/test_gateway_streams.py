"""Uploads and the WebSocket of logs: what streams, within bounds, and stops when somebody leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

GZIP = {"Content-Type": "application/gzip"}


async def test_an_archive_passes_through_in_small_pieces(rig: Any) -> None:
    body = bytes(range(256)) * 8192
    answer = await rig.call("POST", "/v1/projects/shop/sources", token=rig.developer, content=body, headers=GZIP)
    assert (answer.status_code, answer.json()["size_bytes"]) == (201, len(body))
    assert bytes(rig.world.uploaded) == body
    assert max(rig.world.chunk_sizes) <= 256 * 1024


async def test_an_upload_above_the_cap_is_413_and_breaks_the_call_off(gateway_with: Any, eventually: Any) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100_000

    async with gateway_with(source_limit_bytes=1_000_000) as rig:
        untold = await rig.call("POST", "/v1/projects/shop/sources", token=rig.developer, content=pieces(), headers=GZIP)
        assert untold.status_code == 413
        await eventually(lambda: rig.world.uploads_ended == 1)
        assert len(rig.world.uploaded) <= 1_000_000
        told = await rig.call("POST", "/v1/projects/shop/sources", token=rig.developer, content=b"x" * 1_000_001, headers=GZIP)
        assert told.status_code == 413
        assert rig.world.uploads_begun == 1


async def begun_upload(rig: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """An upload of which half has been sent."""
    reader, writer = await asyncio.open_unix_connection(str(rig.socket))
    head = f"POST /v1/projects/shop/sources HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {rig.developer}\r\n"
    writer.write(f"{head}Content-Type: application/gzip\r\nContent-Length: 1000\r\n\r\n".encode() + b"x" * 500)
    await writer.drain()
    return reader, writer


async def test_an_upload_that_is_broken_off_ends_the_call(rig: Any, eventually: Any) -> None:
    _, writer = await begun_upload(rig)
    await eventually(lambda: len(rig.world.uploaded) == 500)
    writer.close()
    await eventually(lambda: rig.world.uploads_ended == 1)


async def test_an_upload_that_stalls_is_408_and_ends_the_call(gateway_with: Any, eventually: Any) -> None:
    async with gateway_with(body_timeout_s=0.2) as rig:
        reader, writer = await begun_upload(rig)
        assert (await asyncio.wait_for(reader.read(4096), 10)).startswith(b"HTTP/1.1 408")
        await eventually(lambda: rig.world.uploads_ended == 1)
        writer.close()


async def test_an_upload_of_another_type_is_415(rig: Any) -> None:
    answer = await rig.call("POST", "/v1/projects/shop/sources", token=rig.developer, json={})
    assert answer.status_code == 415


async def messages(stream: Any) -> AsyncIterator[dict[str, Any]]:
    async for text in stream:
        yield json.loads(text)


async def everything(stream: Any) -> list[dict[str, Any]]:
    return [message async for message in messages(stream)]


def texts(received: list[dict[str, Any]]) -> list[str]:
    return [entry["text"] for message in received if message["type"] == "lines" for entry in message["entries"]]


def states(received: list[dict[str, Any]]) -> list[str]:
    return [message["deployment"]["state"] for message in received if message["type"] == "state"]


async def test_a_rested_deployment_gives_its_state_its_log_and_the_end(rig: Any) -> None:
    deployment = rig.world.deployment("FAILED")
    await rig.world.write(*(f"line {number}" for number in range(2500)))
    async with rig.follow(f"/v1/deployments/{deployment.id}/logs", token=rig.viewer) as stream:
        received = await everything(stream)
    assert received[0]["type"] == "state"
    assert texts(received) == [f"line {number}" for number in range(2500)]
    assert received[-1] == {"type": "end"}


async def test_states_and_lines_come_as_they_happen(rig: Any) -> None:
    deployment = rig.world.deployment("QUEUED")
    async with rig.follow(f"/v1/deployments/{deployment.id}/logs?until=rest", token=rig.viewer) as stream:
        arriving = messages(stream)
        received = [await anext(arriving)]
        await rig.world.change(deployment, "BUILDING")
        while states(received)[-1] != "building":
            received.append(await anext(arriving))
        await rig.world.write("<script>alert(1)</script>")
        while not texts(received):
            received.append(await anext(arriving))
        await rig.world.change(deployment, "PRODUCTION")
        await rig.world.write("the last words")
        received += [message async for message in arriving]
    assert states(received) == ["queued", "building", "production"]
    assert texts(received) == ["<script>alert(1)</script>", "the last words"]
    assert received[-1] == {"type": "end"}


async def test_only_lines_after_the_cursor_come(rig: Any) -> None:
    deployment = rig.world.deployment("FAILED")
    await rig.world.write("old", "new")
    async with rig.follow(f"/v1/deployments/{deployment.id}/logs?after=1&source=build", token=rig.viewer) as stream:
        assert texts(await everything(stream)) == ["new"]


async def test_a_live_deployment_is_followed_until_it_is_replaced(rig: Any) -> None:
    deployment = rig.world.deployment("PRODUCTION")
    async with rig.follow(f"/v1/deployments/{deployment.id}/logs", token=rig.viewer) as stream:
        arriving = messages(stream)
        received = [await anext(arriving)]
        await rig.world.write("GET /")
        received.append(await anext(arriving))
        await rig.world.change(deployment, "INACTIVE")
        received += [message async for message in arriving]
    assert (states(received), texts(received)) == (["production", "inactive"], ["GET /"])


async def test_a_deployment_that_was_only_just_accepted_is_followed_once_it_is_taken_up(rig: Any) -> None:
    body = {"source": {"git": {"url": "https://example.com/r.git"}}}
    accepted = (await rig.call("POST", "/v1/projects/shop/deployments", token=rig.developer, json=body)).json()
    async with rig.follow(f"/v1/deployments/{accepted['id']}/logs", token=rig.viewer) as stream:
        arriving = messages(stream)
        received = [await anext(arriving)]
        assert received[0]["deployment"]["number"] is None
        rig.world.deployment("FAILED", id=accepted["id"])
        received += [message async for message in arriving]
    assert states(received) == ["queued", "failed"]


async def test_when_the_client_leaves_both_calls_end(rig: Any, eventually: Any) -> None:
    deployment = rig.world.deployment("BUILDING")
    async with rig.follow(f"/v1/deployments/{deployment.id}/logs", token=rig.viewer) as stream:
        await stream.recv()
        await eventually(lambda: rig.world.streams_open == {"watch", "logs"})
    await eventually(lambda: rig.world.streams_open == set())


async def test_a_client_that_vanishes_without_a_word_ends_them_too(rig: Any, eventually: Any) -> None:
    deployment = rig.world.deployment("BUILDING")
    stream = await rig.follow(f"/v1/deployments/{deployment.id}/logs", token=rig.viewer)
    await eventually(lambda: rig.world.streams_open == {"watch", "logs"})
    stream.transport.abort()
    await eventually(lambda: rig.world.streams_open == set())


async def test_a_client_that_reads_nothing_holds_back_its_own_stream_only(rig: Any, eventually: Any) -> None:
    deployment = rig.world.deployment("BUILDING")
    slow = await rig.follow(f"/v1/deployments/{deployment.id}/logs", token=rig.viewer)
    slow.transport.pause_reading()
    await rig.world.write(*("x" * 10_000 for _ in range(3000)))
    async with rig.follow(f"/v1/deployments/{deployment.id}/logs", token=rig.viewer) as quick:
        seen = 0
        while seen < 3000:
            message = json.loads(await quick.recv())
            seen += len(message.get("entries", []))
    slow.transport.abort()
    await eventually(lambda: rig.world.streams_open == set())


async def test_a_token_that_is_revoked_ends_its_open_streams(gateway_with: Any, eventually: Any) -> None:
    async with gateway_with(stream_recheck_s=0.05, authentication_cache_s=0) as rig:
        deployment = rig.world.deployment("BUILDING")
        async with rig.follow(f"/v1/deployments/{deployment.id}/logs", token=rig.viewer) as stream:
            await stream.recv()
            del rig.world.tokens[rig.viewer]
            with pytest.raises(ConnectionClosed) as raised:
                await rig.read_on(stream)
        assert raised.value.rcvd.code == 1008
        await eventually(lambda: rig.world.streams_open == set())


async def test_a_user_has_a_bounded_number_of_streams(gateway_with: Any, eventually: Any) -> None:
    async with gateway_with(streams_per_user=1) as rig:
        deployment = rig.world.deployment("BUILDING")
        path = f"/v1/deployments/{deployment.id}/logs"
        async with rig.follow(path, token=rig.viewer) as first:
            await first.recv()
            with pytest.raises(Exception, match="429"):
                await rig.follow(path, token=rig.viewer)
            async with rig.follow(path, token=rig.owner) as other:
                await other.recv()
        await eventually(lambda: rig.world.streams_open == set())
        async with rig.follow(path, token=rig.viewer) as again:
            await again.recv()


async def test_a_gateway_that_stops_lets_go_of_its_streams(gateway_with: Any) -> None:
    async with gateway_with(drain_s=1) as rig:
        deployment = rig.world.deployment("BUILDING")
        stream = await rig.follow(f"/v1/deployments/{deployment.id}/logs", token=rig.viewer)
        await stream.recv()
    with pytest.raises(ConnectionClosed):
        await rig.read_on(stream)
    assert rig.world.streams_open == set()
