"""Static releases at the edge."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil

import pytest

from shipoff.cdn.main import running
from shipoff.common.errors import PreconditionFailed

from .conftest import Cdn, Site, connected, folder, hammering, tarball

SITE = {
    "index.html": "<h1>home</h1>",
    "about.html": "about",
    "docs/index.html": "docs",
    "404.html": "<h1>our own not found</h1>",
    "assets/index-DiwrgTda.js": "hashed",
    "assets/document.js": "x",
    "assets/photo-20240101.js": "x",
    ".env": "SECRET=1",
    ".git/config": "[core]",
    "sub/.hidden/x": "x",
    ".well-known/security.txt": "contact",
    ".well-known/.env": "SECRET=1",
}


async def test_files_folders_clean_urls_and_headers(cdn: Cdn) -> None:
    await cdn.site("site.localhost", SITE)
    home = await cdn.get("site.localhost")
    assert (home.status_code, home.text) == (200, "<h1>home</h1>")
    assert home.headers["cache-control"] == "public, max-age=0, must-revalidate"
    again = await cdn.get("site.localhost", headers={"If-None-Match": home.headers["etag"]})
    assert (again.status_code, again.headers["cache-control"]) == (304, "public, max-age=0, must-revalidate")
    assert (await cdn.get("site.localhost", "/about")).text == "about"
    assert (await cdn.get("site.localhost", "/docs")).status_code == 308
    assert (await cdn.get("site.localhost", "/docs/")).text == "docs"
    assert (await cdn.get("site.localhost", "/.well-known/security.txt")).text == "contact"
    hashed = await cdn.get("site.localhost", "/assets/index-DiwrgTda.js")
    assert hashed.headers["cache-control"] == "public, max-age=31536000, immutable"
    for name in ("document.js", "photo-20240101.js"):
        assert "immutable" not in (await cdn.get("site.localhost", f"/assets/{name}")).headers["cache-control"]


async def test_large_text_is_compressed_for_who_accepts_it(cdn: Cdn) -> None:
    await cdn.site("site.localhost", {"index.html": "<p>words</p>" * 1000})
    answer = await cdn.get("site.localhost", headers={"Accept-Encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.text == "<p>words</p>" * 1000


async def test_a_missing_path_gets_the_release_s_own_page_and_is_not_cached(cdn: Cdn) -> None:
    await cdn.site("site.localhost", SITE)
    for path in ("/nope", "/assets/gone-AbCdEfG1.js", "/docs/nope"):
        missing = await cdn.get("site.localhost", path)
        assert (missing.status_code, missing.text) == (404, "<h1>our own not found</h1>")
        assert missing.headers["cache-control"] == "no-store"
        assert "etag" not in missing.headers


async def test_without_a_page_of_its_own_a_release_gets_the_platform_s(cdn: Cdn) -> None:
    await cdn.site("site.localhost", {"index.html": "home"})
    missing = await cdn.get("site.localhost", "/nope")
    assert (missing.status_code, "There is no such page here" in missing.text) == (404, True)


async def test_a_single_page_app_answers_unknown_paths_with_its_index(cdn: Cdn) -> None:
    await cdn.site("spa.localhost", SITE, spa=True)
    for path in ("/", "/users/7", "/deep/er/path?x=1"):
        answer = await cdn.get("spa.localhost", path)
        assert (answer.status_code, answer.text) == (200, "<h1>home</h1>")
        assert answer.headers["cache-control"] == "public, max-age=0, must-revalidate"
    assert (await cdn.get("spa.localhost", "/assets/index-DiwrgTda.js")).text == "hashed"
    assert (await cdn.get("spa.localhost", "/assets/index-GoneGone.js")).status_code == 404


@pytest.mark.parametrize("spa", [False, True])
async def test_nothing_outside_and_nothing_hidden_is_served(cdn: Cdn, spa: bool) -> None:
    await cdn.site("site.localhost", SITE, spa=spa)
    for path in (
        "/..%2f..%2fetc/passwd",
        "/..%252f..%252fetc/passwd",
        "/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/%252e%252e/%252e%252e/etc/passwd",
        "/..%5c..%5cetc/passwd",
        "/../../../../etc/passwd",
        "/assets/../../../../../etc/passwd",
        "/.env",
        "/%2eenv",
        "/%252eenv",
        "/.git/config",
        "/docs/..%2f.env",
        "/sub/.hidden/x",
        "/.well-known/.env",
        "/.well-known/../.env",
        "/.well-known/%2e%2e/.env",
        "//.env",
    ):
        status, body = await _raw(cdn, path)
        assert (path, status) == (path, 404)
        assert b"root:" not in body
        assert b"SECRET" not in body


async def _raw(cdn: Cdn, path: str) -> tuple[int, bytes]:
    """A request whose path no client has cleaned."""
    reader, writer = await asyncio.open_connection("127.0.0.1", cdn.settings.http_port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: site.localhost\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return int(answer.split()[1]), answer


async def test_a_switch_under_load_shows_whole_releases_only_and_drops_no_request(cdn: Cdn) -> None:
    site = Site("site.localhost")
    releases = [await cdn.publish(tarball({"index.html": text * 20_000, "v": text})) for text in "ab"]
    await cdn.route(site, releases[0], spa=False)
    async with hammering(cdn, site.host) as load:
        for number in range(1, 31):
            await cdn.route(site, releases[number % 2], spa=False)
            assert (await cdn.get(site.host, "/v")).text == "ab"[number % 2]
    assert load.failures == []
    assert load.seen == {"a" * 20_000, "b" * 20_000}


async def test_publishing_twice_does_nothing_and_a_route_needs_a_release(cdn: Cdn) -> None:
    archive = tarball({"index.html": "one"})
    deployment = await cdn.publish(archive)
    before = (folder(cdn.settings, deployment) / "index.html").stat().st_mtime_ns
    await asyncio.gather(*(cdn.publish(archive, deployment) for _ in range(3)))
    assert (folder(cdn.settings, deployment) / "index.html").stat().st_mtime_ns == before
    with pytest.raises(PreconditionFailed):
        await cdn.route(Site("site.localhost"), "00000000-0000-4000-8000-000000000000", spa=False)
    assert [path.name for path in cdn.settings.releases.iterdir() if path.name.startswith(".part")] == []


async def test_the_edge_s_account_reads_releases_whatever_the_umask(cdn: Cdn) -> None:
    before = os.umask(0o077)
    try:
        await cdn.site("site.localhost", {"index.html": "home", "a/b/c.txt": "deep"})
    finally:
        os.umask(before)
    assert (await cdn.get("site.localhost", "/a/b/c.txt")).text == "deep"


async def test_a_folder_that_starts_empty_is_filled_before_the_service_says_that_it_serves(settings, caddy) -> None:
    async with connected(settings, caddy) as cdn:
        async with running(settings):
            await cdn.site("site.localhost", {"index.html": "home"})
        shutil.rmtree(settings.releases)
        await caddy.stop()
        caddy._started_before = False
        await caddy.start()
        # So slow that nothing but the beginning can have done it.
        patient = settings.model_copy(update={"restore_first": True, "watch_s": 600.0, "reconcile_s": 600.0})
        async with running(patient):
            assert (await cdn.get("site.localhost")).text == "home"


async def test_a_release_folder_that_is_gone_comes_back(settings, caddy, eventually) -> None:
    async with contextlib.AsyncExitStack() as stack:
        cdn = await stack.enter_async_context(connected(settings, caddy))
        async with running(settings):
            await cdn.site("site.localhost", {"index.html": "home"})
            for path in settings.releases.iterdir():
                path.rename(settings.releases.parent / path.name)

            async def back() -> bool:
                return (await cdn.get("site.localhost")).text == "home"

            await eventually(back)
