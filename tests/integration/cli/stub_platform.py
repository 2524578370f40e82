"""A stand-in for the platform: its REST interface and log WebSocket, with deployments that go as a test scripts them."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from shipoff.detector.domain import Settings, Snapshot
from shipoff.detector.handlers import Circumstances, survey
from shipoff.detector.server import response
from shipoff.gateway.models.plans import detect_out

TOKEN = "good-token"
SETUP_TOKEN = "setup-me"
RESTING = ("production", "failed", "inactive")
Json = dict[str, Any]
START = datetime(2026, 1, 1, tzinfo=UTC)

# What happens to a deployment: ("state", to, reason) · ("line", source, text) · ("drop",): the WebSocket breaks · ("hang",)
Step = tuple[str, ...]
LIVE: list[Step] = [
    ("state", "building", ""),
    ("line", "build", "▸ install: pip"),
    ("line", "build", "done"),
    ("state", "provisioning", ""),
    ("line", "app", "listening"),
    ("state", "production", ""),
]


def problem(status: int, detail: str, **more: str) -> JSONResponse:
    content = {"type": "urn:shipoff:x", "title": "x", "status": status, "detail": detail, "request_id": "r", **more}
    return JSONResponse(content, status_code=status, media_type="application/problem+json")


@dataclass
class Deployment:
    """One deployment and what is still to happen to it."""

    data: Json
    script: list[Step]
    logs: list[Json] = field(default_factory=list)

    def advance(self) -> Json | None:
        """Lets the next thing happen; the message a WebSocket tells of it."""
        if not self.script:
            return None
        kind, *rest = self.script.pop(0)
        if kind == "state":
            to, reason = rest
            time = (START + timedelta(seconds=1 + len(self.data["transitions"]))).isoformat()
            self.data["transitions"].append(
                {"from": self.data["state"], "to": to, "reason": reason, "actor": "system", "time": time}
            )
            self.data |= {"state": to, "reason": reason, "changed_at": time}
            return {"type": "state", "deployment": self.data}
        if kind == "line":
            source, text = rest
            entry = {
                "position": len(self.logs) + 1,
                "source": source,
                "instance": 0,
                "time": START.isoformat(),
                "channel": "" if text.startswith("▸") else "stdout",
            }
            self.logs.append({**entry, "text": text})
            return {"type": "lines", "entries": [self.logs[-1]]}
        return {"type": kind}


class Platform:
    """The stub's state; every attribute is a knob."""

    def __init__(self) -> None:
        self.port = 0
        self.reset()

    def reset(self) -> None:
        """As new, on the same port."""
        self.projects: dict[str, Json] = {}
        self.deployments: dict[str, Deployment] = {}
        self.variables: dict[str, str] = {}
        self.hooks: list[Json] = []
        self.dead: list[Json] = []
        self.script: list[Step] = list(LIVE)
        self.sources: dict[str, bytes] = {}
        self.bodies: list[tuple[str, str, Json]] = []
        self.keys: list[str] = []
        self.sockets = 0
        self.socket_after: list[int] = []
        self.refuses_sockets = False
        self.away = 0
        # What happens, once each, before a deployment is accepted.
        self.meanwhile: list[Callable[[], object]] = []

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    def project(self, name: str) -> Json:
        found = next((p for p in self.projects.values() if name in (p["id"], p["name"])), None)
        if found is None:
            raise HTTPException(404, f"there is no project {name}")
        return found

    def deployment(self, deployment_id: str) -> Deployment:
        if deployment_id not in self.deployments:
            raise HTTPException(404, f"there is no deployment {deployment_id}")
        return self.deployments[deployment_id]

    def of_project(self, name: str) -> list[Json]:
        return [d.data for d in reversed(self.deployments.values()) if d.data["project_name"] == name]

    def make(
        self, name: str, environment: str, source: Json, *, script: list[Step] | None = None, state: str = "queued"
    ) -> Deployment:
        number = len(self.of_project(name)) + 1
        data = {
            "id": f"0000-{len(self.deployments) + 1}",
            "number": number,
            "project_id": self.project(name)["id"],
            "project_name": name,
            "environment": environment,
            "state": state,
            "reason": "",
            "source": source,
            "branch": "",
            "commit": "",
            "commit_message": "",
            "trigger": "upload",
            "requested_by": "u",
            "urls": [f"http://{name}.localhost:{self.port}"],
            "plan": None,
            "artifact_digest": None,
            "created_at": START.isoformat(),
            "changed_at": START.isoformat(),
            "transitions": [],
            "variable_versions": {},
            "origin_deployment_id": None,
        }
        made = Deployment(data, list(self.script) if script is None else script)
        self.deployments[data["id"]] = made
        return made

    def add_project(self, name: str) -> Json:
        urls = [f"http://{name}.localhost:{self.port}"]
        self.projects[name] = {
            "id": f"id-{name}",
            "name": name,
            "team_id": "t",
            "build": {},
            "run": {},
            "repository": None,
            "environments": [{"name": "production", "hosts": [f"{name}.localhost"], "urls": urls}],
            "created_at": START.isoformat(),
        }
        return self.projects[name]


class Interface:
    """The routes."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform

    async def info(self, request: Request) -> Response:
        return JSONResponse({"version": "1"})

    async def setup(self, request: Request) -> Response:
        body = await self._body(request)
        if body["setup_token"] != SETUP_TOKEN:
            return problem(401, "the setup token is wrong")
        return JSONResponse({"user": {}, "team": {}, "token": TOKEN}, status_code=201)

    async def me(self, request: Request) -> Response:
        user = {"id": "u", "email": "ann@example.com", "name": "Ann"}
        return JSONResponse({"user": user, "teams": [{"id": "t", "name": "main", "role": "owner"}], "token_id": "k"})

    async def tokens(self, request: Request) -> Response:
        token = {"id": "k", "name": "laptop", "created_at": START.isoformat(), "expires_at": None, "last_used_at": None}
        if request.method == "POST":
            name = (await self._body(request))["name"]
            if not name:
                return problem(422, "name: has at least 1 character", field="name")
            return JSONResponse({**token, "name": name, "token": "new-secret"}, status_code=201)
        return JSONResponse({"items": [token]})

    async def members(self, request: Request) -> Response:
        member = {"user": {"id": "u", "email": "ann@example.com", "name": "Ann"}, "role": "owner"}
        return JSONResponse({"items": [member]})

    async def projects(self, request: Request) -> Response:
        if request.method == "POST":
            name = (await self._body(request))["name"]
            if name == "taken":
                return problem(409, "the name taken is taken", field="name", remedy="choose another")
            return JSONResponse(self.platform.add_project(name), status_code=201)
        names = sorted(self.platform.projects)
        start = int(request.query_params.get("cursor", 0))
        more = str(start + 1) if start + 1 < len(names) else None
        return JSONResponse({"items": [self.platform.projects[name] for name in names[start : start + 1]], "next_cursor": more})

    async def project(self, request: Request) -> Response:
        found = self.platform.project(request.path_params["project"])
        if request.method == "DELETE":
            if request.query_params.get("only_unused") == "true" and self.platform.of_project(found["name"]):
                return problem(409, f"{found['name']} is in use")
            del self.platform.projects[found["name"]]
            return Response(status_code=204)
        zero = {"timeout_s": 0, "queue_timeout_s": 0}
        settings = {"build": zero, "run": {"replicas": 0, "memory_bytes": 0, "cpu_millis": 0, "ready_timeout_s": 0}}
        settings["run"] |= {"bake_s": 0, "no_automatic_rollback": False}
        if request.method == "PATCH":
            given = await self._body(request)
            if given.get("build", {}).get("timeout_s", 0) > 7200:
                return problem(400, "build.timeout_s is too long", field="build.timeout_s", remedy="choose at most 7200")
            settings = {name: {**values, **given.get(name, {})} for name, values in settings.items()}
        return JSONResponse({**found, **settings})

    async def source(self, request: Request) -> Response:
        assert request.headers["content-type"] == "application/gzip"
        content = await request.body()
        assert int(request.headers["content-length"]) == len(content)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.platform.sources[digest] = content
        return JSONResponse({"digest": digest, "size_bytes": len(content)}, status_code=201)

    async def project_deployments(self, request: Request) -> Response:
        name = self.platform.project(request.path_params["project"])["name"]
        if request.method == "POST":
            self.platform.keys.append(request.headers["idempotency-key"])
            body = await self._body(request)
            if self.platform.meanwhile:
                self.platform.meanwhile.pop(0)()
                self.platform.project(name)
            if body["environment"] == "Bad":
                return problem(400, "environment 'Bad' is not a DNS label", field="environment")
            made = self.platform.make(name, body["environment"], body["source"])
            return JSONResponse({**made.data, "number": None}, status_code=202)
        wanted = {key: value for key, value in request.query_params.items() if key in ("number", "environment", "state")}
        found = [d for d in self.platform.of_project(name) if all(str(d[key]) == value for key, value in wanted.items())]
        return JSONResponse({"items": found[: int(request.query_params.get("limit", 20))], "next_cursor": None})

    async def deployment(self, request: Request) -> Response:
        found = self.platform.deployment(request.path_params["id"])
        found.advance()
        return JSONResponse(found.data)

    async def act(self, request: Request) -> Response:
        found = self.platform.deployment(request.path_params["id"])
        action = request.path_params["action"]
        body = await self._body(request)
        if action == "cancel":
            if found.data["state"] in RESTING:
                return problem(409, "the deployment rests already")
            found.data["state"] = "inactive"
            return JSONResponse(found.data)
        environment = body.get("environment", found.data["environment"])
        script: list[Step] = [("state", "provisioning", ""), ("state", "production", "")]
        made = self.platform.make(found.data["project_name"], environment, found.data["source"], script=script)
        return JSONResponse(made.data, status_code=202)

    async def rollback(self, request: Request) -> Response:
        name = self.platform.project(request.path_params["project"])["name"]
        await self._body(request)
        made = self.platform.make(name, "production", {}, script=[("state", "provisioning", ""), ("state", "production", "")])
        return JSONResponse(made.data, status_code=202)

    async def detect(self, request: Request) -> Response:
        body = await self._body(request)
        snapshot = Snapshot(tuple(body["paths"]), {path: text.encode() for path, text in body["contents"].items()})
        answer = detect_out(response(survey(snapshot, Settings(**body.get("build", {})), Circumstances(body["source_digest"]))))
        return JSONResponse(answer.model_dump(by_alias=True))

    async def scale(self, request: Request) -> Response:
        self.platform.project(request.path_params["project"])
        return JSONResponse({**await self._body(request), "deployment_id": None})

    async def status(self, request: Request) -> Response:
        found = self.platform.project(request.path_params["project"])
        environment = request.query_params.get("environment", "production")
        all_of = [d for d in self.platform.of_project(found["name"]) if d["environment"] == environment]
        live = next((d for d in all_of if d["state"] == "production"), None)
        instance = {
            "process": "web",
            "index": 0,
            "ready": True,
            "restarts": 2,
            "started_at": START.isoformat(),
            "last_exit": "",
        }
        workload = {"phase": "ready", "reason": "", "replicas": 1, "instances": [instance]} if live else None
        urls = found["environments"][0]["urls"]
        latest = all_of[0] if all_of else None
        return JSONResponse({"project": found, "live": live, "latest": latest, "workload": workload, "urls": urls})

    async def variables(self, request: Request) -> Response:
        self.platform.project(request.path_params["project"])
        known = self.platform.variables
        if request.method == "PUT":
            known.update((await self._body(request))["variables"])
            return JSONResponse({"configuration_version": 2})
        if request.method == "DELETE":
            names = request.query_params.getlist("name")
            if missing := [name for name in names if name not in known]:
                return problem(404, f"{missing[0]} is not set", field="variables", remedy="shipoff env list")
            for name in names:
                del known[name]
            return JSONResponse({"configuration_version": 3})
        reveal = request.query_params.get("reveal") == "true"
        shared = {"version": 1, "changed_at": START.isoformat(), "changed_by": "u"}
        return JSONResponse({"items": [{"name": n, "value": v if reveal else None, **shared} for n, v in known.items()]})

    async def hooks(self, request: Request) -> Response:
        self.platform.project(request.path_params["project"])
        if request.method == "POST":
            hook = {"id": "h1", "url": (await self._body(request))["url"], "created_at": START.isoformat(), "last_result": ""}
            self.platform.hooks.append(hook)
            return JSONResponse({**hook, "secret": "hook-secret"}, status_code=201)
        return JSONResponse({"items": self.platform.hooks})

    async def hook(self, request: Request) -> Response:
        self.platform.hooks.clear()
        return Response(status_code=204)

    async def dead(self, request: Request) -> Response:
        return JSONResponse({"items": self.platform.dead})

    async def dead_one(self, request: Request) -> Response:
        found = [event for event in self.platform.dead if event["id"] == request.path_params["id"]]
        if not found:
            return problem(404, "there is no dead letter of that id", field="id")
        if request.method == "GET":
            return JSONResponse({**found[0], "payload": {"attempt": "1"}})
        self.platform.dead.remove(found[0])
        return Response(status_code=204) if request.method == "DELETE" else JSONResponse({"count": 1})

    async def dead_all(self, request: Request) -> Response:
        await self._body(request)
        count = len(self.platform.dead)
        self.platform.dead.clear()
        return JSONResponse({"count": count})

    async def queue(self, request: Request) -> Response:
        entry = {"deployment_id": "d", "project_id": "p", "project_name": "app", "environment": "production", "number": 4}
        entry |= {"state": "queued", "position": 1, "needs": {}, "waits_for": "memory", "queued_at": START.isoformat()}
        amount = {"cpu_millis": 2000, "memory_bytes": 1 << 30}
        return JSONResponse({"entries": [entry], "budget": amount, "reserved": amount})

    async def logs(self, request: Request) -> Response:
        entries = self._entries(self.platform.deployment(request.path_params["id"]), request.query_params)
        limit = int(request.query_params.get("limit", 500))
        page = entries[-limit:] if request.query_params.get("tail") == "true" else entries[:limit]
        return JSONResponse({"items": page, "more": len(page) < len(entries)})

    @staticmethod
    def _entries(deployment: Deployment, query: Any) -> list[Json]:
        source, after = query.get("source"), int(query.get("after", 0))
        return [e for e in deployment.logs if e["position"] > after and source in (None, e["source"])]

    async def stream(self, websocket: WebSocket) -> None:
        platform = self.platform
        if platform.refuses_sockets or websocket.headers.get("authorization") != f"Bearer {TOKEN}":
            await websocket.close()
            return
        await websocket.accept()
        platform.sockets += 1
        platform.socket_after.append(int(websocket.query_params.get("after", 0)))
        deployment = platform.deployment(websocket.path_params["id"])
        await websocket.send_json({"type": "state", "deployment": deployment.data})
        history = self._entries(deployment, websocket.query_params)
        if history:
            await websocket.send_json({"type": "lines", "entries": history})
        await self._play(websocket, deployment)

    async def _play(self, websocket: WebSocket, deployment: Deployment) -> None:
        ends = RESTING if websocket.query_params.get("until") == "rest" else RESTING[1:]
        wanted = websocket.query_params.get("source")
        while deployment.data["state"] not in ends:
            message = deployment.advance()
            if message is None or message["type"] == "hang":
                await websocket.receive()
                return
            if message["type"] == "drop":
                await websocket.close(1011)
                return
            if message["type"] != "lines" or wanted in (None, message["entries"][0]["source"]):
                await websocket.send_json(message)
        await websocket.send_json({"type": "end"})
        await websocket.close()

    async def _body(self, request: Request) -> Json:
        body: Json = await request.json() if await request.body() else {}
        self.platform.bodies.append((request.method, request.url.path, body))
        return body

    def routes(self) -> list[BaseRoute]:
        project = "/v1/projects/{project}"
        both = ["GET", "POST"]
        return [
            Route("/v1/info", self.info),
            Route("/v1/detect", self.detect, methods=["POST"]),
            Route("/v1/setup", self.setup, methods=["POST"]),
            Route("/v1/me", self.me),
            Route("/v1/tokens", self.tokens, methods=both),
            Route("/v1/teams/t/members", self.members),
            Route("/v1/projects", self.projects, methods=both),
            Route(project, self.project, methods=["GET", "PATCH", "DELETE"]),
            Route(f"{project}/sources", self.source, methods=["POST"]),
            Route(f"{project}/deployments", self.project_deployments, methods=both),
            Route(f"{project}/status", self.status),
            *(Route(f"{project}/{verb}", self.scale, methods=["POST"]) for verb in ("scale", "restart", "pause", "resume")),
            Route(f"{project}/rollback", self.rollback, methods=["POST"]),
            Route(f"{project}/variables", self.variables, methods=["GET", "PUT", "DELETE"]),
            Route(f"{project}/hooks", self.hooks, methods=both),
            Route(f"{project}/hooks/h1", self.hook, methods=["DELETE"]),
            Route("/v1/queue", self.queue),
            Route("/v1/events/dead", self.dead),
            Route("/v1/events/dead/{action:str}", self.dead_all, methods=["POST"]),
            Route("/v1/events/dead/{id}", self.dead_one, methods=["GET", "DELETE"]),
            Route("/v1/events/dead/{id}/replay", self.dead_one, methods=["POST"]),
            Route("/v1/deployments/{id}", self.deployment),
            Route("/v1/deployments/{id}/logs", self.logs),
            WebSocketRoute("/v1/deployments/{id}/logs", self.stream),
            Route("/v1/deployments/{id}/{action}", self.act, methods=["POST"]),
        ]


class Guard:
    """In front of every request: outages, and the token."""

    def __init__(self, app: Starlette, platform: Platform) -> None:
        self._app = app
        self._platform = platform

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            refusal = self._refusal(Request(scope))
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        if self._platform.away > 0:
            self._platform.away -= 1
            return problem(503, "the platform is starting")
        is_open = request.url.path in ("/v1/info", "/v1/setup")
        if not is_open and request.headers.get("authorization") != f"Bearer {TOKEN}":
            return problem(401, "the token is not valid")
        return None


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, error.detail)


@contextmanager
def served(platform: Platform) -> Iterator[Platform]:
    """Serves the stub on a port of its own, in a thread."""
    started = threading.Event()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        asyncio.get_running_loop().call_soon(started.set)
        yield

    app = Starlette(routes=Interface(platform).routes(), exception_handlers={HTTPException: _http_error}, lifespan=lifespan)
    config = uvicorn.Config(Guard(app, platform), host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert started.wait(10)
    while not server.started and thread.is_alive():
        threading.Event().wait(0.01)
    platform.port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield platform
    finally:
        server.should_exit = True
        thread.join(10)
