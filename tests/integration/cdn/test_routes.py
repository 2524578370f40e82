"""The routing table and the edge: proxied apps, fences, and what happens when Caddy dies."""

from __future__ import annotations

import asyncio
import os
import signal

import httpx2
import pytest
import websockets

from shipoff.cdn.main import running
from shipoff.common.errors import Aborted, AlreadyExists, InvalidInput
from shipoff.common.ids import new_id
from shipoff.common.streams import DEPLOYMENT_PROGRESS
from shipoff.contracts.cdn.v1 import cdn_pb2
from shipoff.contracts.events.v1 import events_pb2

from .conftest import Cdn, Site, app, connected, folder, free_port, hammering, saying, tarball


async def test_an_unknown_host_gets_a_404_that_repeats_nothing(cdn: Cdn) -> None:
    for host in ("nobody.localhost", "<script>.localhost", "x" * 300):
        answer = await cdn.get(host)
        assert answer.status_code in (400, 404)
        assert "script" not in answer.text
    answer = await cdn.get("nobody.localhost", "/<b>")
    assert (answer.status_code, "There is no app here" in answer.text, "<b>" in answer.text) == (404, True, False)
    assert answer.headers["cache-control"] == "no-store"


async def test_an_app_is_proxied_with_the_edge_s_own_forwarding_headers(cdn: Cdn) -> None:
    heads: list[str] = []

    async def answer(reader, writer) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode().lower())
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    async with app(answer) as port:
        await cdn.route(Site("app.localhost"), new_id(), port)
        spoofed = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Host": "evil", "Forwarded": "for=6.6.6.6", "X-Real-Ip": "6.6.6.6"}
        assert (await cdn.get("app.localhost", headers=spoofed)).text == "ok"
    assert "6.6.6.6" not in heads[0]
    assert "evil" not in heads[0]
    assert "x-forwarded-for: 127.0.0.1" in heads[0]
    assert "x-real-ip: 127.0.0.1" in heads[0]
    assert "host: app.localhost" in heads[0]


async def test_a_paused_app_says_so_at_once_and_comes_back(cdn: Cdn) -> None:
    site, deployment = Site("app.localhost"), new_id()
    async with app(saying("hello")) as port:
        await cdn.route(site, deployment, port)
        assert (await cdn.get("app.localhost")).text == "hello"
        paused = cdn_pb2.Route(
            project_id=site.project_id, environment=site.environment, deployment_id=deployment, hosts=[site.host], fence=7,
            proxy=cdn_pb2.ProxyTarget(paused=True),
        )  # fmt: skip
        await cdn.stub.SetRoute(cdn_pb2.SetRouteRequest(route=paused))
        began = asyncio.get_running_loop().time()
        answer = await cdn.get("app.localhost")
        assert (answer.status_code, "is paused" in answer.text, answer.headers["retry-after"]) == (503, True, "300")
        assert asyncio.get_running_loop().time() - began < 5
        await cdn.route(site, deployment, port, fence=8)
        assert (await cdn.get("app.localhost")).text == "hello"


async def test_pieces_of_a_stream_pass_as_they_come_and_survive_other_apps_switches(cdn: Cdn) -> None:
    go_on = asyncio.Event()

    async def answer(reader, writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: 1\n\n")
        await writer.drain()
        await go_on.wait()
        writer.write(b"data: 2\n\n")
        await writer.drain()
        writer.close()

    async with app(answer) as port, asyncio.timeout(20):
        await cdn.route(Site("app.localhost"), new_id(), port)
        async with cdn.http.stream("GET", "/", headers={"Host": "app.localhost", "Accept-Encoding": "gzip"}) as response:
            pieces = response.aiter_raw()
            assert await anext(pieces) == b"data: 1\n\n"
            await cdn.route(Site("other.localhost"), new_id(), port)
            go_on.set()
            assert await anext(pieces) == b"data: 2\n\n"


async def test_websockets_pass_and_survive_other_apps_switches(cdn: Cdn) -> None:
    async def echo(connection: websockets.ServerConnection) -> None:
        async for message in connection:
            await connection.send(f"echo {message}")

    async with websockets.serve(echo, "127.0.0.1", 0) as server, asyncio.timeout(20):
        port = next(iter(server.sockets)).getsockname()[1]
        await cdn.route(Site("ws.localhost"), new_id(), port)
        url = f"ws://ws.localhost:{cdn.settings.http_port}/"
        async with websockets.connect(url, host="127.0.0.1", port=cdn.settings.http_port) as client:
            await client.send("one")
            assert await client.recv() == "echo one"
            await cdn.route(Site("other.localhost"), new_id(), port)
            await client.send("two")
            assert await client.recv() == "echo two"


async def test_requests_wait_for_an_instance_that_restarts_and_use_the_other_meanwhile(cdn: Cdn) -> None:
    site, port = Site("app.localhost"), free_port()
    await cdn.route(site, new_id(), port)
    waiting = asyncio.ensure_future(cdn.get(site.host))
    await asyncio.sleep(0.5)
    async with app(saying("back"), port):
        assert (await waiting).text == "back"
        await cdn.route(site, new_id(), port, free_port())
        for _ in range(10):
            assert (await cdn.get(site.host)).text == "back"


async def test_requests_wait_for_the_first_instance_to_come(cdn: Cdn) -> None:
    site, deployment = Site("app.localhost"), new_id()
    await cdn.route(site, deployment)
    waiting = asyncio.ensure_future(cdn.get(site.host))
    async with app(saying("here")) as port:
        await cdn.route(site, deployment, port)
        assert (await waiting).text == "here"


async def test_a_switch_takes_effect_before_it_is_acknowledged(cdn: Cdn) -> None:
    site = Site("app.localhost")
    async with app(saying("old")) as old, app(saying("new")) as new:
        for port, text in [(old, "old"), (new, "new")] * 5:
            await cdn.route(site, new_id(), port)
            assert (await cdn.get(site.host)).text == text


async def test_a_switch_of_a_proxied_app_under_load_drops_no_request(cdn: Cdn) -> None:
    site = Site("app.localhost")
    async with app(saying("old")) as old, app(saying("new")) as new:
        await cdn.route(site, new_id(), old)
        async with hammering(cdn, site.host) as load:
            for number in range(20):
                await cdn.route(site, new_id(), (new, old)[number % 2])
                await asyncio.to_thread(load.wait_for_requests, 3)
        assert load.failures == []
        assert load.seen == {"old", "new"}


async def test_many_concurrent_switches_share_loads_and_all_take_effect(cdn: Cdn) -> None:
    sites = [Site(f"app{number}.localhost") for number in range(60)]
    async with app(saying("hello")) as port:
        await asyncio.gather(*(cdn.route(site, new_id(), port) for site in sites))
        for site in sites:
            assert (await cdn.get(site.host)).text == "hello"


async def test_a_stale_fence_changes_nothing(cdn: Cdn) -> None:
    site, current = Site("app.localhost"), new_id()
    async with app(saying("new")) as new, app(saying("old")) as old:
        await cdn.route(site, current, new, fence=5)
        await cdn.route(site, current, new, fence=5)
        for fence in (4, 5):
            with pytest.raises(Aborted):
                await cdn.route(site, new_id(), old, fence=fence)
        assert (await cdn.get(site.host)).text == "new"


async def _remove(cdn: Cdn, site: Site, deployment: str) -> None:
    request = cdn_pb2.RemoveRouteRequest(project_id=site.project_id, environment=site.environment, deployment_id=deployment)
    await cdn.stub.RemoveRoute(request)


async def test_a_route_is_removed_only_by_the_deployment_it_points_at_and_stays_removed(cdn: Cdn) -> None:
    site, deployment = Site("app.localhost"), new_id()
    async with app(saying("here")) as port:
        await cdn.route(site, deployment, port, fence=3)
        await _remove(cdn, site, new_id())
        assert (await cdn.get(site.host)).text == "here"
        for _ in range(2):
            await _remove(cdn, site, deployment)
            assert (await cdn.get(site.host)).status_code == 404
        with pytest.raises(Aborted):
            await cdn.route(site, deployment, port, fence=3)
        await cdn.route(Site("app.localhost"), new_id(), port)
        assert (await cdn.get(site.host)).text == "here"


async def test_a_host_belongs_to_one_environment_and_never_to_the_platform(cdn: Cdn) -> None:
    await cdn.route(Site("app.localhost"), new_id(), 1)
    with pytest.raises(AlreadyExists):
        await cdn.route(Site("app.localhost"), new_id(), 1)
    for host in (
        "api.localhost",
        "localhost",
        "127.0.0.1",
        "*.localhost",
        "{http.request.host}",
        "UPPER.localhost",
        "a..b",
        "",
    ):
        with pytest.raises(InvalidInput):
            await cdn.route(Site(host), new_id(), 1)
    listed = (await cdn.stub.ListRoutes(cdn_pb2.ListRoutesRequest())).routes
    assert [list(route.hosts) for route in listed] == [["app.localhost"]]


async def test_listed_routes_are_what_was_set(cdn: Cdn) -> None:
    site, deployment = Site("app.localhost"), new_id()
    await cdn.route(site, deployment, 4001, 4002)
    await cdn.site("site.localhost", {"index.html": "x"}, spa=True)
    (route,) = (await cdn.stub.ListRoutes(cdn_pb2.ListRoutesRequest(project_id=site.project_id))).routes
    assert (route.deployment_id, list(route.hosts), route.fence) == (deployment, ["app.localhost"], 1)
    assert [endpoint.port for endpoint in route.proxy.endpoints] == [4001, 4002]
    assert len((await cdn.stub.ListRoutes(cdn_pb2.ListRoutesRequest())).routes) == 2


async def test_the_platform_s_own_hosts_lead_to_the_gateway(cdn: Cdn, shipoff_home) -> None:
    server = await asyncio.start_unix_server(saying("gateway"), cdn.settings.gateway_socket)
    cdn.settings.gateway_socket.chmod(0o666)
    try:
        for host in ("localhost", "127.0.0.1", "api.localhost", f"localhost:{cdn.settings.http_port}"):
            assert (await cdn.get(host)).text == "gateway"
    finally:
        server.close()


async def _serves(cdn: Cdn, host: str, text: str) -> bool:
    try:
        return (await cdn.get(host)).text == text
    except httpx2.HTTPError:
        return False


async def test_a_killed_caddy_gets_its_routes_back(cdn: Cdn, eventually) -> None:
    site = await cdn.site("site.localhost", {"index.html": "home"})
    child = cdn.caddy.child
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)
    await child.wait()
    # As after a restart of the platform: nothing remembered.
    cdn.caddy._started_before = False
    await cdn.caddy.start()
    await eventually(lambda: _serves(cdn, site.host, "home"))


async def test_routes_set_while_caddy_is_away_are_served_when_it_is_back(cdn: Cdn, eventually) -> None:
    deployment = await cdn.publish(tarball({"index.html": "late"}))
    await cdn.caddy.stop()
    with pytest.raises(Exception, match="edge does not answer"):
        await cdn.route(Site("site.localhost"), deployment, spa=False)
    await cdn.caddy.start()
    await eventually(lambda: _serves(cdn, "site.localhost", "late"))


async def test_a_restarted_cdn_knows_its_routes(settings, caddy, eventually) -> None:
    async with connected(settings, caddy) as cdn:
        async with running(settings):
            await cdn.site("site.localhost", {"index.html": "home"})
        assert (await cdn.get("site.localhost")).text == "home"
        await caddy.stop()
        caddy._started_before = False
        await caddy.start()
        async with running(settings):
            await eventually(lambda: _serves(cdn, "site.localhost", "home"))


async def test_expired_releases_go_but_never_one_that_is_served(cdn: Cdn, eventually) -> None:
    site = await cdn.site("site.localhost", {"index.html": "one"})
    (served,) = [route.deployment_id for route in (await cdn.stub.ListRoutes(cdn_pb2.ListRoutesRequest())).routes]
    unused = await cdn.publish(tarball({"index.html": "two"}))
    for deployment in (served, unused):
        event = events_pb2.ReleaseExpired(deployment_id=deployment)
        await cdn.streams.publish(DEPLOYMENT_PROGRESS, [event, event], tenant_id="t")
    await eventually(lambda: not folder(cdn.settings, unused).exists())
    assert (await cdn.get(site.host)).text == "one"
    await cdn.route(site, await cdn.publish(tarball({"index.html": "three"})), spa=False)
    await eventually(lambda: not folder(cdn.settings, served).exists())
    assert (await cdn.get(site.host)).text == "three"


async def test_ambiguous_requests_are_refused(cdn: Cdn) -> None:
    await cdn.route(Site("app.localhost"), new_id(), 1)
    for head in (
        "GET / HTTP/1.1\r\nHost: app.localhost\r\nHost: other.localhost\r\n",
        "POST / HTTP/1.1\r\nHost: nobody.localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", cdn.settings.http_port)
        writer.write(f"{head}\r\n".encode())
        assert (await reader.readline()).split()[1] == b"400"
        writer.close()
