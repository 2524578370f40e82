"""A small Kubernetes API: server-side apply with field owners, watches, quota, and the answers that clients dread.

It holds what the driver relies on and no more; the same contract tests run on a real cluster (`make test-cluster`).
The workings of the cluster behind it (Deployments bring pods, pods become ready or do not) are in kube_nodes.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import uvicorn
from neighbours.kube_logs import LogBook
from neighbours.kube_pods import execute
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute

Json = dict[str, Any]
Key = tuple[str, str, str]


class Refused(Exception):
    """An answer other than success: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/."""

    def __init__(self, code: int, message: str, headers: dict[str, str] | None = None, *, reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.headers = headers or {}

    @property
    def status(self) -> Json:
        known = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": self.message, "code": self.code}
        return {**known, "reason": self.reason} if self.reason else known


@dataclass
class Fault:
    """Answers requests to a path with a code instead, so many times; code 0: says nothing at all."""

    method: str
    path: str
    code: int
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    # Carried out all the same: the answer was lost.
    done: bool = False


@dataclass
class Store:
    """Objects with their history, and who owns which of their fields."""

    objects: dict[Key, Json] = field(default_factory=dict)
    owners: dict[Key, dict[str, dict[tuple[str, ...], Any]]] = field(default_factory=dict)
    version: int = 100
    # (version, type, kind, object)
    history: list[tuple[int, str, str, Json]] = field(default_factory=list)
    # Versions below are forgotten.
    oldest: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    # What the cluster behind the API does about a change; set by kube_nodes.
    react: Callable[[str, str, Json], None] = lambda *_: None

    def record(self, event: str, kind: str, obj: Json) -> None:
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        self.history.append((self.version, event, kind, copy.deepcopy(obj)))
        self.react(event, kind, obj)
        waking = asyncio.ensure_future(self._wake())
        waking.add_done_callback(lambda _: None)

    async def _wake(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    def create(self, kind: str, obj: Json) -> None:
        meta = obj["metadata"]
        key = (kind, meta.get("namespace", ""), meta["name"])
        meta |= {"uid": str(uuid.uuid4()), "creationTimestamp": datetime.now(UTC).isoformat()}
        self.objects[key] = obj
        self.record("ADDED", kind, obj)

    def update(self, kind: str, obj: Json) -> None:
        """Tells of a change made in place, unless the object is gone."""
        meta = obj["metadata"]
        if self.objects.get((kind, meta.get("namespace", ""), meta["name"])) is obj:
            self.record("MODIFIED", kind, obj)

    def delete(self, key: Key) -> None:
        obj = self.objects.pop(key, None)
        self.owners.pop(key, None)
        if obj is not None:
            self.record("DELETED", key[0], obj)

    def of(self, kind: str, namespace: str = "") -> list[Json]:
        return [obj for (k, ns, _), obj in list(self.objects.items()) if k == kind and (not namespace or ns == namespace)]

    def add(self, key: Key, obj: Json) -> Json:
        """What POST does: never to what is there."""
        self._admit(*key)
        if key in self.objects:
            raise Refused(409, f'{key[0]} "{key[2]}" already exists', reason="AlreadyExists")
        self.create(key[0], obj)
        return obj

    def apply(self, key: Key, wanted: Json, manager: str, *, force: bool) -> Json:
        """Server-side apply: fields that this manager applied before and leaves out now go; others' are a conflict."""
        kind, namespace, name = key
        live, uid = self.objects.get(key), wanted["metadata"].pop("uid", None)
        if uid is not None and live is None:
            raise Refused(409, f"uid mismatch: the provided object specified uid {uid}, and no existing object was found")
        if uid is not None and live is not None and live["metadata"]["uid"] != uid:
            raise Refused(422, f'{kind} "{name}" is invalid: metadata.uid: Invalid value: "{uid}": field is immutable')
        leaves = dict(_leaves({k: v for k, v in wanted.items() if k not in ("apiVersion", "kind")}))
        if live is None:
            self._admit(kind, namespace, name)
            self.owners[key] = {manager: leaves}
            self.create(kind, _defaulted(kind, copy.deepcopy(wanted)))
            return self.objects[key]
        before = copy.deepcopy(live)
        owners = self.owners.setdefault(key, {})
        for other, theirs in owners.items():
            clash = [path for path, value in leaves.items() if other != manager and path in theirs and theirs[path] != value]
            if clash and not force:
                raise Refused(409, f"Apply failed with 1 conflict: conflict with {other!r}: .{'.'.join(clash[0])}")
            for path in clash:
                del theirs[path]
        for path in set(owners.get(manager, {})) - set(leaves):
            if not any(path in theirs for other, theirs in owners.items() if other != manager):
                _remove(live, path)
        for path, value in leaves.items():
            _put(live, path, copy.deepcopy(value))
        _defaulted(kind, live)
        _check_immutable(before, live, self.objects, key)
        owners[manager] = leaves
        if live != before:
            self.record("MODIFIED", kind, live)
        return live

    def merge(self, key: Key, part: Json) -> Json:
        """Merge patch (RFC 7396); with its last finalizer an object that is on its way out goes."""
        live = self.objects.get(key)
        if live is None:
            raise Refused(404, f'{key[0]} "{key[2]}" not found')
        before = copy.deepcopy(live)
        _merge(live, part)
        if "deletionTimestamp" in live["metadata"] and not live["metadata"].get("finalizers"):
            self.delete(key)
        elif live != before:
            self.record("MODIFIED", key[0], live)
        return live

    def _admit(self, kind: str, namespace: str, name: str) -> None:
        if not name or len(name) > 63 or not all(c.isascii() and (c.isalnum() or c == "-") and c == c.lower() for c in name):
            raise Refused(422, f"{kind} {name!r} is invalid: metadata.name: not a DNS label")
        if kind == "namespaces":
            return
        place = self.objects.get(("namespaces", "", namespace))
        if place is None:
            raise Refused(404, f'namespaces "{namespace}" not found')
        if "deletionTimestamp" in place["metadata"]:
            raise Refused(403, f'"{name}" is forbidden: unable to create new content in namespace {namespace} '
                               "because it is being terminated")  # fmt: skip


def _leaves(node: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Lists count as one field."""
    if not isinstance(node, dict) or not node:
        return [(path, node)]
    return [leaf for key, value in node.items() for leaf in _leaves(value, (*path, key))]


def _merge(live: Json, part: Json) -> None:
    for key, value in part.items():
        if value is None:
            live.pop(key, None)
        elif isinstance(value, dict):
            _merge(live.setdefault(key, {}), value)
        else:
            live[key] = value


def _remove(obj: Json, path: tuple[str, ...]) -> None:
    *way, last = path
    for step in way:
        obj = obj.get(step, {})
    obj.pop(last, None)


def _put(obj: Json, path: tuple[str, ...], value: Any) -> None:
    *way, last = path
    for step in way:
        obj = obj.setdefault(step, {})
    if value != {} or last not in obj:
        obj[last] = value


def _defaulted(kind: str, obj: Json) -> Json:
    """With what the API fills in where nobody says it."""
    if kind == "deployments":
        obj["spec"].setdefault("replicas", 1)
    return obj


def _check_immutable(before: Json, after: Json, objects: dict[Key, Json], key: Key) -> None:
    frozen = before.get("immutable") and before.get("data") != after.get("data")
    selector = key[0] == "deployments" and before["spec"]["selector"] != after["spec"]["selector"]
    if frozen or selector:
        objects[key] = before
        raise Refused(422, f"{key[0]} {key[2]!r} is invalid: field is immutable")


@dataclass
class KubeApi:
    """The server, with what tests look at and break."""

    store: Store = field(default_factory=Store)
    faults: list[Fault] = field(default_factory=list)
    # (method, path) of every request, watches included.
    requests: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""
    # Ends every watch that is under way when it is set.
    cut: asyncio.Event = field(default_factory=asyncio.Event)
    logs: dict[str, list[str]] = field(default_factory=dict)
    # What is asked for with times.
    book: LogBook = field(default_factory=LogBook)

    @property
    def writes(self) -> list[tuple[str, str]]:
        return [one for one in self.requests if one[0] != "GET"]

    def fail(self, method: str, path: str, code: int, *, times: int = 1, done: bool = False, **headers: str) -> Fault:
        fault = Fault(method, path, code, times, {key.replace("_", "-"): value for key, value in headers.items()}, done)
        self.faults.append(fault)
        return fault

    def forget_history(self) -> None:
        """Whoever watches from before now is answered 410."""
        self.store.oldest = self.store.version + 1
        self.store.record("MODIFIED", "namespaces", {"metadata": {"name": "kube-system"}})

    def cut_watches(self) -> None:
        self.cut.set()
        self.cut = asyncio.Event()

    async def answer(self, request: Request) -> Response:
        path = request.url.path
        self.requests.append((request.method, path))
        fault = next((one for one in self.faults if one.times and one.method == request.method and one.path in path), None)
        try:
            if fault is not None:
                fault.times -= 1
                if fault.done:
                    await self._carry_out(request)
                if not fault.code:
                    await asyncio.sleep(3600)
                raise Refused(fault.code, "the test wants it so", fault.headers)
            return await self._carry_out(request)
        except Refused as refused:
            return JSONResponse(refused.status, refused.code, refused.headers)

    async def _carry_out(self, request: Request) -> Response:
        kind, namespace, name, sub = _parsed(request.url.path)
        if request.method == "GET" and sub == "log":
            if "timestamps" not in request.query_params and "follow" in request.query_params:
                return StreamingResponse(self._follow(namespace, name), media_type="text/plain")
            return self._log(request, namespace, name)
        if request.method == "GET" and not name:
            return self._many(request, kind, namespace)
        if request.method == "POST":
            body = json.loads(await request.body())
            return JSONResponse(self.store.add((kind, namespace, body["metadata"]["name"]), body), 201)
        key = (kind, namespace, name)
        if request.method == "PATCH" and "merge-patch" in request.headers["content-type"]:
            return JSONResponse(self.store.merge(key, json.loads(await request.body())))
        if request.method == "PATCH":
            force = request.query_params.get("force") == "true"
            body = json.loads(await request.body())
            return JSONResponse(self.store.apply(key, body, request.query_params["fieldManager"], force=force))
        found = self.store.objects.get(key)
        if found is None:
            raise Refused(404, f'{kind} "{name}" not found')
        if request.method == "DELETE":
            self._delete(key, found, at_once=request.query_params.get("gracePeriodSeconds") == "0")
        return JSONResponse(found)

    def _delete(self, key: Key, obj: Json, *, at_once: bool = False) -> None:
        """Pods and namespaces take their time, with the cluster behind the API."""
        stays = key[0] in ("pods", "namespaces") or obj["metadata"].get("finalizers")
        if at_once or not stays:
            self.store.delete(key)
        elif "deletionTimestamp" not in obj["metadata"]:
            obj["metadata"]["deletionTimestamp"] = datetime.now(UTC).isoformat()
            self.store.update(key[0], obj)

    def _log(self, request: Request, namespace: str, name: str) -> Response:
        if ("pods", namespace, name) not in self.store.objects:
            raise Refused(404, f'pods "{name}" not found')
        if "timestamps" in request.query_params:
            return StreamingResponse(self.book.told(name, request.query_params), media_type="text/plain")
        return PlainTextResponse("\n".join(self.logs.get(name, [])))

    async def _follow(self, namespace: str, name: str) -> AsyncIterator[bytes]:
        """What a pod writes, until it has ended."""
        sent = 0
        while True:
            lines = self.logs.get(name, [])
            for line in lines[sent:]:
                yield f"{line}\n".encode()
            sent = len(lines)
            pod = self.store.objects.get(("pods", namespace, name))
            if pod is None or pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05), self.store.changed:
                    await self.store.changed.wait()

    def _many(self, request: Request, kind: str, namespace: str) -> Response:
        selector = request.query_params.get("labelSelector", "")
        if request.query_params.get("watch") == "true":
            version = int(request.query_params.get("resourceVersion") or 0)
            return StreamingResponse(self._watch(kind, namespace, selector, version), media_type="application/json")
        items = [one for one in self.store.of(kind, namespace) if _selected(one, selector)]
        meta = {"resourceVersion": str(self.store.version)}
        return JSONResponse({"kind": "List", "apiVersion": "v1", "metadata": meta, "items": items})

    async def _watch(self, kind: str, namespace: str, selector: str, version: int) -> AsyncIterator[bytes]:
        cut = self.cut
        while not cut.is_set():
            if version and version < self.store.oldest:
                gone = Refused(410, f"too old resource version: {version}")
                yield json.dumps({"type": "ERROR", "object": gone.status}).encode() + b"\n"
                return
            for at, event, of, obj in self.store.history:
                if at > version:
                    version = at
                    if of == kind and namespace in ("", obj["metadata"].get("namespace")) and _selected(obj, selector):
                        yield json.dumps({"type": event, "object": obj}).encode() + b"\n"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2), self.store.changed:
                    if self.store.version == version:
                        await self.store.changed.wait()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[KubeApi]:
        """On a port of its own beside the block."""
        exec_path = "/api/v1/namespaces/{namespace}/pods/{name}/exec"
        executing = WebSocketRoute(exec_path, partial(execute, self))
        app = Starlette(routes=[executing, Route("/{path:path}", self.answer, methods=["GET", "POST", "PATCH", "DELETE"])])
        config = uvicorn.Config(
            app, host="127.0.0.1", port=0, log_level="critical", lifespan="off", timeout_graceful_shutdown=0
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server._serve())
        while not server.started:  # noqa: ASYNC110 - it sets nothing that could be waited for
            await asyncio.sleep(0.005)
        self.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            self.cut.set()
            server.should_exit = server.force_exit = True
            await task

    def kubeconfig(self) -> Json:
        """What a file for KUBECONFIG would hold."""
        return {
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "fake", "user": {"token": "fake"}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
            "current-context": "fake",
        }


def _parsed(path: str) -> tuple[str, str, str, str]:
    """(kind, namespace, name, subresource) of /api/v1/… and /apis/<group>/<version>/…."""
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 2:
        namespace, parts = parts[1], parts[2:]
    kind, name, sub = [*parts, "", ""][:3]
    return kind, namespace, name, sub


def _selected(obj: Json, selector: str) -> bool:
    labels = obj["metadata"].get("labels") or {}
    wanted = [pair.partition("=")[::2] for pair in selector.split(",") if pair]
    return all(labels.get(key) == value for key, value in wanted)
