"""The API server of a Kubernetes cluster: calls that may be repeated, lists and watches, with its errors as the platform's.

Used by the adapters of the services that keep something on a cluster: runtime the apps, build its Jobs.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

import httpx2
from lightkube import ApiError, AsyncClient, KubeConfig
from lightkube.config.client_adapter import verify_cluster
from lightkube.core.exceptions import ConfigError

from shipoff.common.errors import DeadlineExceeded, Exhausted, InvalidInput, PermanentError, TemporaryError, Unavailable

_Result = TypeVar("_Result")

_TRIES = 4
_FIRST_PAUSE_S = 0.2
# The server ends a watch after this long, and one that has said nothing for longer is taken for dead.
WATCH_S = 300
_SILENCE_S = WATCH_S + 30
_CONFLICT, _GONE, _TOO_MANY, _UNAVAILABLE = 409, 410, 429, 503


class Gone(Exception):
    """What was known is too old to follow: list again."""


class Absent(PermanentError):
    """There is no such object."""


class Taken(PermanentError):
    """There is one of that name already, or another than was meant."""


def connected() -> AsyncClient:
    """A client of the cluster that KUBECONFIG names, or that this process runs in.

    Raises lightkube.core.exceptions.ConfigError when there is neither.
    """
    config = KubeConfig.from_env().get()
    if config is None or config.user is None:
        raise ConfigError("the configuration names no cluster, or nobody to be there")
    trusted = verify_cluster(config.cluster, config.user, config.abs_file)
    # Since Python 3.13 an authority must say what its key is for, and many clusters' do not. Who signed is checked as ever.
    trusted.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return AsyncClient(config, transport=httpx2.AsyncHTTPTransport(verify=trusted))


class Cluster:
    """Calls to one cluster, its wish to be left alone respected."""

    def __init__(self, client: AsyncClient) -> None:
        # Its overloads know single kinds only.
        self._any: Any = client
        # Nothing is asked before this time of the loop's clock: the server said so.
        self._closed_until = 0.0

    async def listed(self, kind: type[Any], *, labels: Mapping[str, str], namespace: str | None) -> tuple[list[Any], str]:
        """Everything of a kind with these labels, and the version at which that is so. `namespace`: "*" is all of them."""

        async def collected() -> tuple[list[Any], str]:
            listing = self._any.list(kind, chunk_size=500, labels=dict(labels), **_place(namespace))
            found = [one async for one in listing]
            return found, listing.resourceVersion

        return await self.call(collected)

    async def watched(
        self, kind: type[Any], version: str, *, labels: Mapping[str, str], namespace: str | None
    ) -> AsyncIterator[tuple[str, Any]]:
        """What happens from that version on. Raises Gone when it is time to list again, TemporaryError."""
        wanted = {"labels": dict(labels), "server_timeout": WATCH_S, **_place(namespace)}
        iterator = aiter(self._any.watch(kind, resource_version=version, **wanted))
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

    async def call(self, request: Callable[[], Awaitable[_Result]]) -> _Result:
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


def _place(namespace: str | None) -> dict[str, str]:
    return {} if namespace is None else {"namespace": namespace}


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
        return Absent(words)
    if status == _CONFLICT and _reason(error) == "AlreadyExists":
        return Taken(words)
    if status == 403 and "exceeded quota" in words:
        return Exhausted(f"the quota is used up: {words}", retry_after_s=5.0)
    if status in (400, 422):
        return InvalidInput(f"the cluster refused it: {words}")
    # 401 and 403 are the operator's to mend, and the app's then starts; a namespace on its way out answers 403 as well.
    return Unavailable(f"the cluster answered {status}: {words}", retry_after_s=_retry_after(error) or 1.0)


def _reason(error: httpx2.HTTPError) -> str:
    return (error.status.reason or "") if isinstance(error, ApiError) and error.status is not None else ""
