"""Removing images: only what was not built again since, with the registry's login, and told once where it refuses."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
import structlog

from shipoff.common.errors import Unavailable
from shipoff.worker.adapters.registry import Registry, is_image
from shipoff.worker.domain import Removal
from shipoff.worker.transitions import is_leftover

DIGEST = "sha256:" + "a" * 64
IMAGE = f"registry.example/apps/shop@{DIGEST}"
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def tag(accepted_at: datetime, attempt: int = 1) -> str:
    """As the builder tags an image."""
    moment = f"{int(accepted_at.timestamp() * 1000):012x}"
    return f"{moment[:8]}-{moment[8:]}-7000-8000-000000000000-{attempt}"


def registry(tmp_path: Path, answer) -> Registry:
    return Registry(httpx2.AsyncClient(transport=httpx2.MockTransport(answer)), tmp_path / "config.json")


def with_tags(*tags: str):
    """A registry in which all of these lead to the image."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/tags/list"):
            return httpx2.Response(200, json={"tags": ["latest", *tags]})
        return httpx2.Response(200, headers={"Docker-Content-Digest": DIGEST})

    return answer


@pytest.mark.parametrize(("ages_h", "leftover"), [([500], True), ([500, 400], True), ([500, 20], False), ([], True)])
async def test_an_image_that_may_have_been_built_again_since_is_kept(tmp_path: Path, ages_h: list[int], leftover: bool):
    tags = [tag(NOW - timedelta(hours=hours)) for hours in ages_h]
    found = await registry(tmp_path, with_tags(*tags)).changed_at(IMAGE)
    assert is_leftover(Removal(IMAGE, NOW, 1), found) is leftover


async def test_a_registry_that_refuses_is_told_of_once_and_no_error(tmp_path: Path):
    refusing = registry(tmp_path, lambda _: httpx2.Response(405))
    with structlog.testing.capture_logs() as logs:
        await refusing.delete(IMAGE)
        await refusing.delete(IMAGE)
    assert [(one["event"], one["registry"]) for one in logs] == [
        ("the registry keeps images that nothing needs", "registry.example")
    ]


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_one_that_cannot_now_is_asked_again_later(tmp_path: Path, status: int):
    with pytest.raises(Unavailable):
        await registry(tmp_path, lambda _: httpx2.Response(status)).delete(IMAGE)


@pytest.mark.parametrize("status", [202, 404])
async def test_what_is_removed_or_gone_is_fine(tmp_path: Path, status: int):
    await registry(tmp_path, lambda _: httpx2.Response(status)).delete(IMAGE)


async def test_the_login_is_given_to_whom_the_registry_names_and_its_token_to_the_registry(tmp_path: Path):
    login = base64.b64encode(b"me:secret").decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"registry.example": {"auth": login}}}))
    seen: list[tuple[str, str]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append((request.url.host, request.headers.get("Authorization", "")))
        if request.url.host == "auth.example":
            assert request.url.params["scope"] == "repository:apps/shop:pull,delete"
            return httpx2.Response(200, json={"token": "t"})
        if request.headers.get("Authorization") == "Bearer t":
            return httpx2.Response(202)
        asked = 'Bearer realm="https://auth.example/token",service="registry.example"'
        return httpx2.Response(401, headers={"WWW-Authenticate": asked})

    await registry(tmp_path, answer).delete(IMAGE)
    assert seen == [("registry.example", ""), ("auth.example", f"Basic {login}"), ("registry.example", "Bearer t")]


def test_objects_of_the_store_are_no_images():
    assert is_image(IMAGE)
    assert is_image(f"127.0.0.1:5000/apps/shop@{DIGEST}")
    assert not is_image(f"artifacts/019ab000/{DIGEST}.tar.gz")
