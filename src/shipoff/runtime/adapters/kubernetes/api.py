"""The API server: what the driver asks of it, with its errors translated and its wishes to be left alone respected.

Every call may be repeated: objects are applied whole, server-side, under one field manager
(https://kubernetes.io/docs/reference/using-api/server-side-apply/), and deleting what is gone is no error.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import httpx2
from lightkube import ApiError, AsyncClient
from lightkube.core.resource import GlobalResource, NamespacedResource
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.core_v1 import Pod, PodLog
from lightkube.types import PatchType

from shipoff.common.errors import DeadlineExceeded, Exhausted, InvalidInput, PermanentError, TemporaryError, Unavailable
from shipoff.runtime.manifests import Object
from shipoff.runtime.manifests.marks import MANAGER, platform_labels
from shipoff.runtime.manifests.release import CONTAINER

_Result = TypeVar("_Result")

# Who is told to have set what an autoscaler changes from then on.
_AUTOSCALED = "shipoff-autoscaled"
_TRIES = 4
_FIRST_PAUSE_S = 0.2
# The server ends a watch after this long, and one that has said nothing for longer is taken for dead.
WATCH_S = 300
_SILENCE_S = WATCH_S + 30
_ANSWER_S = 10.0
_CONFLICT, _GONE, _TOO_MANY, _UNAVAILABLE = 409, 410, 429, 503


class Gone(Exception):
    """What was known is too old to follow: list again."""


class Api:
    """Calls to one cluster."""

    def __init__(self, client: AsyncClient, *, platform: str) -> None:
        self._client = client
        self._own = platform_labels(platform)
        # Its overloads know single kinds only.
        self._any: Any = client
        # Nothing is asked before this time of the loop's clock: the server said so.
        self._closed_until = 0.0

    async def close(self) -> None:
        """Ends its connections."""
        await self._client.close()

    async def apply(self, obj: Object) -> Object:
        """Applies the object; what the server made of it. Raises TemporaryError, PermanentError."""
        try:
            return await self._call(lambda: self._client.apply(obj, field_manager=MANAGER, force=True))
        except _Absent as error:
            # Its namespace was on its way out and has ended in the meantime; the next look makes it anew.
            raise Unavailable(error.message) from error

    async def hand_over(self, deployment: Deployment, replicas: int) -> Deployment:
        """Sets how many instances there are, as a field that is not the platform's any more; the Deployment then.

        Raises TemporaryError, also when it is gone or is another by now.
        https://kubernetes.io/docs/reference/using-api/server-side-apply/#transferring-ownership
        """
        meta: Any = deployment.metadata
        # With its uid none is made where there is none.
        known = {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid}
        part = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": known, "spec": {"replicas": replicas}}
        how: dict[str, Any] = {"patch_type": PatchType.APPLY, "field_manager": _AUTOSCALED, "force": True}
        try:
            return await self._call(lambda: self._client.patch(Deployment, meta.name, part, namespace=meta.namespace, **how))
        except InvalidInput as error:
            # Another of the same name by now: its uid cannot be changed to the one that was known. Nothing else is wrong here.
            raise Unavailable(error.message) from error

    async def delete(self, kind: type[Object], name: str, namespace: str) -> None:
        """Deletes it with what it owns; nothing when it is gone."""
        place = {} if issubclass(kind, GlobalResource) else {"namespace": namespace}
        with contextlib.suppress(_Absent):
            await self._call(lambda: self._any.delete(kind, name, **place))

    async def delete_pod(self, name: str, namespace: str, *, grace_s: int | None = None) -> None:
        """Ends a pod; nothing when it is gone."""
        with contextlib.suppress(_Absent):
            await self._call(lambda: self._client.delete(Pod, name, namespace=namespace, grace_period=grace_s))

    async def last_lines(self, pod: str, namespace: str, *, previous: bool, count: int) -> tuple[str, ...]:
        """The last lines that a pod's container wrote, or the run before it; none where there is nothing to be had."""
        params = {"tailLines": count, "previous": "true" if previous else None, "limitBytes": 16384}
        # The library's own log() cannot ask for the run before.
        requests: Any = self._client._client
        request = requests.prepare_request("get", PodLog, name=pod, namespace=namespace, params=params)
        try:
            async with asyncio.timeout(5):
                answer = await requests.send(requests.build_adapter_request(request))
        except (httpx2.HTTPError, TimeoutError):
            return ()
        if answer.status_code != 200:
            return ()
        return tuple(line for line in answer.text.splitlines() if line.strip())[-count:]

    async def log(self, pod: str, namespace: str, *, since: int, previous: bool, follow: bool) -> AsyncGenerator[bytes]:
        """What a pod's container, or the run before it, has written from this second on (0: all), each line behind its time.

        `follow`: and what it writes until it ends. Raises TemporaryError, PermanentError.
        """
        params = {
            "container": CONTAINER,
            "timestamps": "true",
            "sinceTime": datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if since else None,
            "previous": "true" if previous else None,
            "follow": "true" if follow else None,
        }
        # The library's own log() gives whole lines only, however long, and knows no time to begin at.
        requests: Any = self._client._client
        request = requests.prepare_request("get", PodLog, name=pod, namespace=namespace, params=params)
        request.timeout = httpx2.Timeout(_ANSWER_S, read=None if follow else _ANSWER_S)
        try:
            response = await requests.send(requests.build_adapter_request(request), stream=True)
            try:
                if response.is_error:
                    await response.aread()
                    requests.raise_for_status(response)
                async for chunk in response.aiter_bytes():
                    yield chunk
            finally:
                await response.aclose()
        except httpx2.HTTPError as error:
            raise translated(error) from error

    async def list(self, kind: type[Any]) -> tuple[list[Any], str]:
        """Everything of a kind that is the platform's, and the version at which that is so."""

        async def collected() -> tuple[list[Any], str]:
            listing = self._any.list(kind, chunk_size=500, labels=self._own, **_everywhere(kind))
            found = [one async for one in listing]
            return found, listing.resourceVersion

        return await self._call(collected)

    async def watch(self, kind: type[Any], version: str) -> AsyncIterator[tuple[str, Any]]:
        """What happens from that version on. Raises Gone when it is time to list again, TemporaryError."""
        events = self._any.watch(kind, labels=self._own, resource_version=version, server_timeout=WATCH_S, **_everywhere(kind))
        iterator = aiter(events)
        try:
            while True:
                try:
                    event, obj = await asyncio.wait_for(anext(iterator), _SILENCE_S)
                except TimeoutError as error:
                    raise Gone from error
                except httpx2.HTTPError as error:
                    if _status(error) == _GONE:
                        raise Gone from error
                    raise translated(error) from error
                yield event, obj
        finally:
            await iterator.aclose()

    async def _call(self, request: Callable[[], Awaitable[_Result]]) -> _Result:
        """Tries again what may work in a moment, not before the server wants to hear of it."""
        for attempt in range(_TRIES):
            await self._until_open()
            try:
                return await request()
            except httpx2.HTTPError as error:
                reason = translated(error)
                if not isinstance(reason, TemporaryError) or isinstance(reason, Exhausted):
                    raise reason from error
                self._hold(error, reason.retry_after_s)
                if attempt == _TRIES - 1:
                    raise reason from error
            await asyncio.sleep(_FIRST_PAUSE_S * 2**attempt)
        raise AssertionError("unreachable")

    def _hold(self, error: httpx2.HTTPError, seconds: float) -> None:
        if _status(error) in (_TOO_MANY, _UNAVAILABLE) and _retry_after(error):
            self._closed_until = max(self._closed_until, asyncio.get_running_loop().time() + seconds)

    async def _until_open(self) -> None:
        await asyncio.sleep(max(0.0, self._closed_until - asyncio.get_running_loop().time()))


class _Absent(PermanentError):
    """There is no such object."""


def _everywhere(kind: type[Any]) -> dict[str, str]:
    return {"namespace": "*"} if issubclass(kind, NamespacedResource) else {}


def _status(error: httpx2.HTTPError) -> int:
    if isinstance(error, ApiError) and error.status is not None and error.status.code:
        return int(error.status.code)
    response = getattr(error, "response", None)
    return int(response.status_code) if response is not None else 0


def _words(error: httpx2.HTTPError) -> str:
    """What the server said; without a status of its own, the code's phrase."""
    response = getattr(error, "response", None)
    return str(error) if isinstance(error, ApiError) or response is None else response.reason_phrase


def _retry_after(error: httpx2.HTTPError) -> float:
    """Seconds that the server asked for; 0: none."""
    response = getattr(error, "response", None)
    value = response.headers.get("Retry-After", "") if response is not None else ""
    return float(value) if value.isdigit() else 0.0


def translated(error: httpx2.HTTPError) -> TemporaryError | PermanentError:
    """A driver's error as one of the platform's. https://kubernetes.io/docs/reference/using-api/api-concepts/"""
    status, words = _status(error), _words(error)
    if isinstance(error, httpx2.TimeoutException):
        return DeadlineExceeded("the cluster's API did not answer in time")
    if status == 0:
        return Unavailable(f"the cluster's API cannot be reached: {words or type(error).__name__}")
    if status == 404:
        return _Absent(words)
    if status == 403 and "exceeded quota" in words:
        return Exhausted(f"the project's quota is used up: {words}", retry_after_s=5.0)
    if status in (400, 422):
        return InvalidInput(f"the cluster refused it: {words}")
    # 401 and 403 are the operator's to mend, and the app's then starts; a namespace on its way out answers 403 as well.
    return Unavailable(f"the cluster answered {status}: {words}", retry_after_s=_retry_after(error) or 1.0)
