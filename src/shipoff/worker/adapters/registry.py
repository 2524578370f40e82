"""Images in a registry (https://distribution.github.io/distribution/spec/api/): when one was built last, and its removal.

What a registry then frees, and when, is its own affair: most do at their next garbage collection.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import structlog

from shipoff.common.errors import NotFound, Unavailable
from shipoff.worker.ports import Objects

_TIMEOUT_S = 20.0
_IMAGE = re.compile(r"([^/@]+)/([^@]+)@(sha256:[0-9a-f]{64})")
# What the builder tags an image with: its deployment, whose id begins with when it was accepted (UUIDv7), and the attempt.
_TAG = re.compile(r"([0-9a-f]{8})-([0-9a-f]{4})-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}-\d+")
_LOOKED_AT = 200
# From when a deployment was accepted until its image is pushed, at most: the longest wait and the longest build.
_LONGEST_WAY = timedelta(hours=26)
_LONG_AGO = datetime.fromtimestamp(0, UTC)
_REFUSED = (401, 403, 405)
_MANIFESTS = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.index.v1",
        "oci.image.manifest.v1",
        "docker.distribution.manifest.list.v2",
        "docker.distribution.manifest.v2",
    )
)
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')

log = structlog.get_logger()


def is_image(key: str) -> bool:
    """Whether it names an image by its digest, and no object of the store."""
    return bool(_IMAGE.fullmatch(key))


@dataclass
class Registry:
    """`ports.Objects` for images. `logins` is a config.json as `docker login` writes it; one that is not there holds none."""

    client: httpx2.AsyncClient
    logins: Path
    _told: set[str] = field(default_factory=set)

    @classmethod
    @asynccontextmanager
    async def open(cls, logins: Path) -> AsyncIterator[Registry]:
        """A client that ends with the block."""
        async with httpx2.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=False) as client:
            yield cls(client, logins)

    async def changed_at(self, key: str) -> datetime:
        """Until when a build may have pushed it again: long ago where it was built once. Raises NotFound, Unavailable."""
        host, repository, digest = _parts(key)
        answer = await self._ask("GET", host, f"{repository}/tags/list", "pull", repository)
        tags = answer.json().get("tags") or [] if answer.status_code == 200 else []
        known = sorted((found for tag in tags if (found := _TAG.fullmatch(tag))), key=lambda one: one[0], reverse=True)
        same = []
        for tag in known[:_LOOKED_AT]:
            head = await self._ask("HEAD", host, f"{repository}/manifests/{tag[0]}", "pull", repository)
            if head.headers.get("Docker-Content-Digest") == digest:
                same.append(datetime.fromtimestamp(int(tag[1] + tag[2], 16) / 1000, UTC))
        return same[0] + _LONGEST_WAY if len(same) > 1 else _LONG_AGO

    async def delete(self, key: str) -> None:
        """Removes the image with every tag that leads to it; fine when there is none. Raises Unavailable.

        A registry that refuses is told of once, and asked again for the next image.
        """
        host, repository, digest = _parts(key)
        answer = await self._ask("DELETE", host, f"{repository}/manifests/{digest}", "delete", repository)
        if answer.status_code in _REFUSED and host not in self._told:
            self._told.add(host)
            remedy = "let it delete (REGISTRY_STORAGE_DELETE_ENABLED=true) and give the login that right, or clean it up there"
            log.warning("the registry keeps images that nothing needs", registry=host, status=answer.status_code, remedy=remedy)
        elif answer.status_code >= 500 or answer.status_code == 429:
            raise Unavailable(f"the registry {host} answered {answer.status_code}")

    async def _ask(self, method: str, host: str, path: str, action: str, repository: str) -> httpx2.Response:
        """The answer, with the login where it is asked for. Raises Unavailable."""
        # As the Docker Engine has it: a registry on this machine speaks plain HTTP.
        scheme = "http" if host.partition(":")[0] in ("localhost", "127.0.0.1") else "https"
        headers = {"Accept": _MANIFESTS}
        try:
            answer = await self.client.request(method, f"{scheme}://{host}/v2/{path}", headers=headers)
            if answer.status_code == 401 and (login := self._login(host, answer)):
                headers["Authorization"] = await self._authorization(login, answer, f"repository:{repository}:pull,{action}")
                answer = await self.client.request(method, f"{scheme}://{host}/v2/{path}", headers=headers)
            return answer
        except (httpx2.HTTPError, ValueError) as error:
            raise Unavailable(f"the registry {host} cannot be asked: {error}"[:300]) from error

    def _login(self, host: str, answer: httpx2.Response) -> str:
        """Name and password in base64, as config.json has them; empty where there are none, or another program keeps them."""
        try:
            written: Any = json.loads(self.logins.read_text())
        except (OSError, ValueError):
            return ""
        found: Mapping[str, Any] = (written.get("auths") or {}).get(host) or {}
        return str(found.get("auth") or "")

    async def _authorization(self, login: str, challenge: httpx2.Response, scope: str) -> str:
        """Basic, or the token that the registry's own server gives for it (distribution's token authentication)."""
        asked = challenge.headers.get("WWW-Authenticate", "")
        terms = dict(_CHALLENGE.findall(asked))
        if not asked.lower().startswith("bearer") or not terms.get("realm", "").startswith("https://"):
            return f"Basic {login}"
        name, _, password = base64.b64decode(login).decode().partition(":")
        wanted = {"scope": scope, "service": terms.get("service", "")}
        answer = await self.client.get(terms["realm"], params=wanted, auth=(name, password))
        token = answer.raise_for_status().json()
        return f"Bearer {token.get('token') or token.get('access_token')}"


@dataclass(frozen=True)
class Everywhere:
    """`ports.Objects` for whatever a release leaves: images in their registry, the rest in the object store."""

    objects: Objects
    registry: Objects

    def _of(self, key: str) -> Objects:
        return self.registry if is_image(key) else self.objects

    async def changed_at(self, key: str) -> datetime:
        """As the one that has it says."""
        return await self._of(key).changed_at(key)

    async def delete(self, key: str) -> None:
        """From the one that has it."""
        await self._of(key).delete(key)


def _parts(key: str) -> tuple[str, str, str]:
    """Host, repository and digest. Raises NotFound for what is no image's reference by digest."""
    found = _IMAGE.fullmatch(key)
    if found is None:
        raise NotFound(f"{key} names no image")
    return found[1], found[2], found[3]
