"""The platform's REST interface as the verbs see it: JSON in, JSON out, and every refusal a Failure."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit, urlunsplit

import httpx2

from shipoff.cli import hints
from shipoff.cli.credentials import Credentials
from shipoff.cli.errors import ExitCode, Failure, Missing, Unreachable, UsageFailure

Json = dict[str, Any]

_TIMEOUT = httpx2.Timeout(30.0, connect=5.0)
_UPLOAD_TIMEOUT = httpx2.Timeout(120.0, connect=5.0)
_AWAY = frozenset([502, 503, 504])
_LATER = _AWAY | {429}
# As for input that the verbs themselves refuse.
_WRONG_INPUT = frozenset([400, 413, 415, 422])
_LONGEST_WAIT_S = 5.0
_WHERE = "set SHIPOFF_URL to the platform's address, as http://host:port"
_PAUSES_S = (0.3, 1.0)


def dialled(url: str) -> tuple[str, str]:
    """Where to connect for a URL, and the Host header to send.

    Names below .localhost are this machine (RFC 6761, section 6.3), which not every system's resolver knows.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "ws") or not host.endswith(".localhost"):
        return url, parts.netloc
    port = f":{parts.port}" if parts.port else ""
    return urlunsplit(parts._replace(netloc=f"127.0.0.1{port}")), parts.netloc


def check_url(url: str, *, named_by: str) -> None:
    """Raises UsageFailure, naming what named it, when a platform cannot be at this URL."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        fits = False
    if not fits or "@" in url or not url.isascii() or " " in url or not url.isprintable():
        named_by = named_by or "SHIPOFF_URL"
        raise UsageFailure(f"the platform cannot be at {url!r}", field=named_by, remedy=f"write {named_by} as http://host:port")


def _sendable(credentials: Credentials) -> str:
    """The token. Raises Failure when it cannot stand in a header."""
    token = credentials.token
    if not token.isascii() or not token.isprintable() or " " in token:
        raise _not_signed_in(credentials, "what is given as the token is none")
    return token


def _not_signed_in(credentials: Credentials, message: str) -> Failure:
    """Says where a token that is not accepted comes from: signing in does not help against the environment."""
    if credentials.signed_in_by == "--token":
        remedy = "make one where you are signed in already: shipoff tokens create NAME"
        return Failure(message, code=ExitCode.NOT_SIGNED_IN, field="--token", remedy=remedy)
    if credentials.signed_in_by:
        message = f"{message}; it comes from the environment variable {credentials.signed_in_by}"
        remedy = f"set {credentials.signed_in_by} to a token of {credentials.url}, or unset it and sign in: shipoff login"
        return Failure(message, code=ExitCode.NOT_SIGNED_IN, field=credentials.signed_in_by, remedy=remedy)
    return Failure(message, code=ExitCode.NOT_SIGNED_IN, remedy="sign in: shipoff login")


def is_this_machine(url: str) -> bool:
    """Whether the URL leads to this machine, where no proxy belongs in between."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.") or host.endswith(".localhost")


def segment(text: str) -> str:
    """A user's text as one segment of a path."""
    return quote(text, safe="")


class Api:
    """A signed-in connection to one platform. A context manager: leaving it closes the connections."""

    def __init__(self, credentials: Credentials) -> None:
        self.url = credentials.url
        self._credentials = credentials
        check_url(self.url, named_by=credentials.url_from)
        base, host = dialled(self.url)
        self.headers = {"Host": host, "User-Agent": "shipoff-cli"}
        if credentials.token:
            self.headers["Authorization"] = f"Bearer {_sendable(credentials)}"
        here = is_this_machine(base)
        # Reading the system's certificates takes longer than a request; nothing is encrypted between here and here.
        verify = not (here and base.startswith("http:"))
        self._http = httpx2.Client(
            base_url=base, headers=self.headers, timeout=_TIMEOUT, trust_env=not here, verify=verify, follow_redirects=False
        )

    def __enter__(self) -> Api:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    def get(self, path: str, **parameters: str | int | bool | None) -> Json:
        """Reads; parameters that are None are left out."""
        given = {name: value for name, value in parameters.items() if value is not None}
        return self._call("GET", path, params=given, repeatable=True)

    def items(self, path: str, **parameters: str | int | bool | None) -> Iterator[Json]:
        """Every item of a list, page after page."""
        cursor: str | None = None
        while True:
            page = self.get(path, **parameters, cursor=cursor)
            yield from page["items"]
            cursor = page.get("next_cursor")
            if not cursor:
                return

    def post(self, path: str, body: Mapping[str, Any] | None = None, *, keyed: bool = False) -> Json:
        """Posts; `keyed` sends an Idempotency-Key, so that a repetition cannot do it twice."""
        headers = {"Idempotency-Key": str(uuid.uuid4())} if keyed else {}
        return self._call("POST", path, json=dict(body or {}), headers=headers, repeatable=keyed)

    def put(self, path: str, body: Mapping[str, Any]) -> Json:
        """Replaces or merges; safe to repeat."""
        return self._call("PUT", path, json=dict(body), repeatable=True)

    def patch(self, path: str, body: Mapping[str, Any]) -> Json:
        """Changes what is given; safe to repeat."""
        return self._call("PATCH", path, json=dict(body), repeatable=True)

    def delete(self, path: str, **parameters: str | bool | list[str] | None) -> Json:
        """Removes."""
        return self._call("DELETE", path, params={name: value for name, value in parameters.items() if value is not None})

    def upload(self, path: str, chunks: Iterator[bytes], size_bytes: int) -> Json:
        """Posts a gzip archive as it is read."""
        headers = {"Content-Type": "application/gzip", "Content-Length": str(size_bytes)}
        return self._call("POST", path, content=chunks, headers=headers, timeout=_UPLOAD_TIMEOUT)

    def _call(self, method: str, path: str, *, repeatable: bool = False, **arguments: Any) -> Json:
        pauses = list(_PAUSES_S) if repeatable else []
        while True:
            wait_s = 0.0
            try:
                response = self._http.request(method, path, **arguments)
            except httpx2.ConnectError as error:
                raise self._nothing_answers() from error
            except httpx2.HTTPError as error:
                if not pauses:
                    raise Unreachable(f"{self.url} broke off: {error or type(error).__name__}", remedy="try again") from error
            else:
                if response.status_code not in _LATER or not pauses:
                    return self._answer(response)
                wait_s = _retry_after_s(response)
            time.sleep(max(pauses.pop(0), wait_s))

    def _answer(self, response: httpx2.Response) -> Json:
        if not response.is_success:
            self._refused(response)
        if not response.content:
            return {}
        try:
            content = response.json()
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise Unreachable(f"what answers at {self._address} is not Shipoff", remedy=_WHERE)
        return content

    def refuse(self, status: int, body: bytes) -> NoReturn:
        """Raises the Failure that an answer of this status and body, a problem document, is."""
        headers = {"Content-Type": "application/problem+json"}
        self._refused(httpx2.Response(status, headers=headers, content=body, request=httpx2.Request("GET", self.url)))

    def _refused(self, response: httpx2.Response) -> NoReturn:
        problem = _problem(response)
        text = str(problem.get("detail") or problem.get("title") or f"the platform answered {response.status_code}")
        field, remedy = str(problem.get("field") or ""), hints.in_options(str(problem.get("remedy") or ""))
        # Tokens and teams have names too.
        if field == "name" and response.request.url.path == "/v1/projects":
            field = "project.name"
        message, field = hints.in_options(text, field), hints.option(field)
        status = response.status_code
        if status == 401:
            raise (
                _not_signed_in(self._credentials, message)
                if self._credentials.token
                else Failure(message, code=ExitCode.NOT_SIGNED_IN, field=field, remedy=remedy or "sign in: shipoff login")
            )
        if not problem:
            raise Unreachable(
                f"{self._address} answers {status}, but not as Shipoff does",
                remedy=f"it may be just starting; if not: {_WHERE}",
            )
        if status == 404:
            raise Missing(message, field=field, remedy=remedy)
        if status in _AWAY:
            raise Unreachable(message, remedy=remedy or "try again shortly")
        if status in _WRONG_INPUT:
            raise UsageFailure(message, field=field, remedy=remedy)
        raise Failure(message, field=field, remedy=remedy)

    @property
    def _address(self) -> str:
        """The URL, and what named it."""
        named_by = self._credentials.url_from
        return f"{self.url} (from {named_by})" if named_by else self.url

    def _nothing_answers(self) -> Unreachable:
        """The failure when no platform runs there."""
        named_by = self._credentials.url_from
        remedy = (
            f"correct {named_by}, or start the platform there: make up"
            if named_by
            else f"start it: make up; if it runs elsewhere: {_WHERE}"
        )
        return Unreachable(f"nothing answers at {self._address}", remedy=remedy)


def _retry_after_s(response: httpx2.Response) -> float:
    """The wait the platform asks for (RFC 9110, section 10.2.3), within reason."""
    text = response.headers.get("Retry-After", "")
    return min(float(text), _LONGEST_WAIT_S) if text.isascii() and text.isdigit() else 0.0


def _problem(response: httpx2.Response) -> Json:
    """The problem document (RFC 9457); empty when the answer is none."""
    if "json" not in response.headers.get("Content-Type", ""):
        return {}
    try:
        content = response.json()
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
