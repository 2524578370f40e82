"""Caddy's configuration, built from the routing table by pure functions.

Where a route leads is not in the configuration but in small files below `live/` that it names: a link to the release, and
for each instance its address, which Caddy reads with every request. So a switch is a rename. A new configuration would close
the connections that visitors keep open, and drop requests that are on their way in that moment; it is loaded only when hosts
come or go, or when the kind of a target or the number of instances changes.

The source of every field is Caddy's JSON reference (https://caddyserver.com/docs/json/).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from shipoff.cdn import pages
from shipoff.cdn.domain import Endpoint, Route, StaticTarget

Json = dict[str, Any]

SERVER = "edge"
# Where the configuration's marker is found in it.
MARKER_KEY = "@id"

_ROOT = "root"
# Refuses at once, so that a request waits for an instance to come: the address is read again with every try.
_NOBODY = "127.0.0.1:1"

# A request waits this long for an instance that is restarting.
_TRY_DURATION = "8s"
_TRY_INTERVAL = "50ms"
# Below the 2 to 5 s after which common app servers close an idle connection: a request must not meet one that is closing.
_UPSTREAM_IDLE = "1500ms"
# Every change of any route is a new configuration; a WebSocket of another app's outlives it for so long.
_STREAM_CLOSE_DELAY = "24h"

# From outside these would let a visitor pretend; Caddy itself replaces X-Forwarded-For, -Host and -Proto.
_SPOOFABLE = ["Forwarded", "X-Forwarded-Port", "X-Forwarded-Prefix", "X-Forwarded-Server", "X-Original-Url", "X-Rewrite-Url"]

# Leads upwards once decoded, or once decoded twice.
_UPWARDS = r"(?i)(^|[/\\]|%2f|%5c)(\.|%2e){2}($|[/\\]|%2f|%5c)"
# Any part of the path that begins with a dot, encoded once more or not; RFC 8615's folder alone is served.
_DOTFILE = r"(?i)(/|\\|%2f|%5c)(\.|%2e)"
_WELL_KNOWN = r"^/\.well-known/[^.\\%]([^\\%]*[^/\\%])?$"
_SECOND_DOTFILE = r"^/\.well-known/.*/\."

# Names that carry a hash of their content. Folders that only build tools fill:
# Next.js, Astro, SvelteKit, Create React App.
_HASHED_FOLDER = (
    r"^/(_next/static/(chunks|css|media)/.+|_astro/.+[.-][A-Za-z0-9_-]{8}\.\w+|_app/immutable/.+"
    r"|static/(js|css|media)/.+\.[0-9a-f]{8,20}\.(\w+\.)*\w+)$"
)
# Vite and Rollup: name-hash.ext with eight characters of base64url; a word, a number or a date is no hash.
_HASHED_ASSET = r"^/assets/(.*/)?[^/]+-[A-Za-z0-9_-]{8}\.(js|mjs|css|wasm|woff2?|ttf)$"
_WORD = r"-([a-z]{8}|[A-Z][a-z]{7}|[A-Z]{8}|[0-9_-]{8}|[a-z]+[0-9]{1,2}|[a-z-]{8})\.\w+$"

_NOT_REMEMBERED = {"set": {"Cache-Control": ["no-store"]}, "delete": ["Etag", "Last-Modified"]}
_IMMUTABLE = "public, max-age=31536000, immutable"
_REVALIDATE = "public, max-age=0, must-revalidate"


@dataclass(frozen=True)
class EdgeLayout:
    """Where the edge listens and finds things."""

    http_port: int
    admin_socket: str
    gateway_socket: str
    gateway_hosts: tuple[str, ...]
    # The folder with one folder a release.
    releases: str
    # The folder of what the configuration reads with every request.
    live: str


@dataclass(frozen=True)
class EdgeConfig:
    """A configuration, and the marker it carries: two of the same marker are the same."""

    marker: str
    config: Json


@dataclass(frozen=True)
class LiveFile:
    """A file or a link below `live/`."""

    path: str
    # The content, or where the link leads.
    value: str
    link: bool = False


def gateway_hosts(base_domain: str) -> tuple[str, ...]:
    """The hosts on which the platform itself answers."""
    return ("localhost", "127.0.0.1", f"api.{base_domain}")


def edge_config(layout: EdgeLayout, routes: Iterable[Route]) -> EdgeConfig:
    """The whole configuration of Caddy; the order of the routes does not matter."""
    ordered = sorted(routes, key=lambda route: (route.project_id, route.environment))
    server: Json = {
        "listen": [f":{layout.http_port}"],
        "automatic_https": {"disable": True},
        "protocols": ["h1"],
        "read_header_timeout": "15s",
        "idle_timeout": "2m",
        "routes": [
            _host_route(layout.gateway_hosts, [_to_gateway(layout)]),
            *(_host_route(route.hosts, _target(layout, route)) for route in ordered),
            {"handle": [pages.response(404, pages.NO_APP)]},
        ],
        "errors": {"routes": _error_routes()},
    }
    config: Json = {
        # Kept by Caddy too: started again, it serves these routes before anybody loads them.
        "admin": {"listen": f"unix/{layout.admin_socket}", "config": {"persist": True}},
        "logging": {"logs": {"default": {"level": "ERROR"}}},
        "apps": {"http": {"servers": {SERVER: server}}},
    }
    marker = "shipoff-" + hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:32]
    server[MARKER_KEY] = marker
    return EdgeConfig(marker, config)


def _host_route(hosts: Iterable[str], handlers: list[Json]) -> Json:
    return {"match": [{"host": list(hosts)}], "handle": handlers, "terminal": True}


def live_files(layout: EdgeLayout, routes: Iterable[Route]) -> list[LiveFile]:
    """What the configuration of these routes reads."""
    files: list[LiveFile] = []
    for route in routes:
        name = _live_name(route)
        if isinstance(route.target, StaticTarget):
            files.append(LiveFile(f"{name}/{_ROOT}", f"{layout.releases}/{route.deployment_id}", link=True))
        else:
            addresses = [_dial(endpoint) for endpoint in route.target.endpoints] or [_NOBODY]
            files += [LiveFile(f"{name}/{slot}", address) for slot, address in enumerate(addresses)]
    return files


def _live_name(route: Route) -> str:
    """A name for the environment's folder: its own name may hold anything."""
    return hashlib.sha256(f"{route.project_id}/{route.environment}".encode()).hexdigest()[:32]


def _target(layout: EdgeLayout, route: Route) -> list[Json]:
    live = f"{layout.live}/{_live_name(route)}"
    if isinstance(route.target, StaticTarget):
        return [_files(f"{live}/{_ROOT}", spa=route.target.spa)]
    if route.target.paused:
        return [pages.response(503, pages.PAUSED, {"Retry-After": ["300"]})]
    slots = max(1, len(route.target.endpoints))
    return [_proxy([f"{{file.{live}/{slot}}}" for slot in range(slots)])]


def _to_gateway(layout: EdgeLayout) -> Json:
    return _proxy([f"unix/{layout.gateway_socket}"])


def _dial(endpoint: Endpoint) -> str:
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"{host}:{endpoint.port}"


def _proxy(addresses: list[str]) -> Json:
    proxy: Json = {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": address} for address in addresses],
        # Every piece goes out as it comes: server-sent events, streamed answers.
        "flush_interval": -1,
        "stream_close_delay": _STREAM_CLOSE_DELAY,
        "load_balancing": {
            "selection_policy": {"policy": "least_conn"},
            "try_duration": _TRY_DURATION,
            "try_interval": _TRY_INTERVAL,
        },
        "headers": {"request": {"set": {"X-Real-Ip": ["{http.request.remote.host}"]}, "delete": _SPOOFABLE}},
        "transport": {
            "protocol": "http",
            "dial_timeout": "2s",
            "keep_alive": {"enabled": True, "idle_timeout": _UPSTREAM_IDLE, "max_idle_conns_per_host": 256},
        },
    }
    if len(addresses) > 1:
        # An instance that does not answer is left out for a moment; a single one is simply tried again.
        proxy["health_checks"] = {"passive": {"fail_duration": "2s", "max_fails": 1}}
    return proxy


def _files(root: str, *, spa: bool) -> Json:
    """Serves a release's folder."""
    return {
        "handler": "subroute",
        "routes": [
            {"match": _forbidden(), "handle": [{"handler": "error", "status_code": 404}]},
            {"match": _hashed(), "handle": [_cache_control(_IMMUTABLE)]},
            {"match": [{"not": _hashed()}], "handle": [_cache_control(_REVALIDATE)]},
            {"handle": [{"handler": "encode", "encodings": {"zstd": {}, "gzip": {}}, "prefer": ["zstd", "gzip"]}]},
            *_rewriting(root, spa=spa),
            {"handle": [_file_server(root)]},
        ],
        "errors": {"routes": [_own_404(root), *_error_routes()]},
    }


def _path(pattern: str) -> Json:
    """Matches the decoded path as it came; `path_regexp` would see it cleaned of what is looked for here."""
    return {"vars_regexp": {"{http.request.uri.path}": {"pattern": pattern}}}


def _forbidden() -> list[Json]:
    return [
        _path(_UPWARDS),
        _path(_SECOND_DOTFILE),
        {**_path(_DOTFILE), "not": [_path(_WELL_KNOWN)]},
    ]


def _hashed() -> list[Json]:
    return [_path(_HASHED_FOLDER), {**_path(_HASHED_ASSET), "not": [_path(_WORD)]}]


def _cache_control(value: str) -> Json:
    """Set on answers with content only: a missing file's 404 must not be remembered."""
    response = {"set": {"Cache-Control": [value]}, "deferred": True, "require": {"status_code": [2, 304]}}
    return {"handler": "headers", "response": response}


def _rewriting(root: str, *, spa: bool) -> list[Json]:
    """Finds /about.html for /about; for a single-page app, index.html for what is no file."""
    path = "{http.request.uri.path}"
    found: Json = {"file": {"root": root, "try_files": [path, f"{path}/", f"{path}.html"]}}
    routes: list[Json] = [{"match": [found], "handle": [{"handler": "rewrite", "uri": "{http.matchers.file.relative}"}]}]
    if spa:
        # A hashed file of an earlier release is gone; a page in its place would be run as a script.
        routes.append({"match": [{"not": [found, *_hashed()]}], "handle": [{"handler": "rewrite", "uri": "/index.html"}]})
    return routes


def _file_server(root: str, status: int = 0) -> Json:
    server: Json = {"handler": "file_server", "root": root, "index_names": ["index.html"], "hide": [".git", ".env", ".env.*"]}
    return {**server, "status_code": str(status)} if status else server


def _own_404(root: str) -> Json:
    """The release's own 404.html, where it has one."""
    return {
        "match": [{"vars": {"{http.error.status_code}": ["404"]}, "file": {"root": root, "try_files": ["/404.html"]}}],
        "handle": [
            {"handler": "headers", "response": {**_NOT_REMEMBERED, "deferred": True}},
            {"handler": "rewrite", "uri": "/404.html"},
            _file_server(root, 404),
        ],
        "terminal": True,
    }


def _error_routes() -> list[Json]:
    def on(codes: list[str], page: Json) -> Json:
        return {"match": [{"vars": {"{http.error.status_code}": codes}}], "handle": [page], "terminal": True}

    return [
        on(["404"], pages.response(404, pages.NO_FILE)),
        on(["502", "503", "504"], pages.response("{http.error.status_code}", pages.NO_ANSWER, {"Retry-After": ["5"]})),
        {"handle": [pages.response("{http.error.status_code}", pages.REFUSED)]},
    ]
