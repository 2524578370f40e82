"""The example apps: what they are known by, and somebody who reads one while it is replaced."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import httpx2
from e2e.harness import Platform, wait_until


@dataclass(frozen=True)
class Example:
    """What an example is known by."""

    # Patterns of lines that only its own tools write into the build's log, in this order.
    tools: tuple[str, ...]
    mode: str = "server"
    # Of its own log, once it serves.
    says: str = ""
    # Where its greeting stands.
    file: str = ""


EXAMPLES_SERVED = {
    "hello-python": Example(
        ("plan: python flask", "install: uv pip install .*requirements.txt", r"\+ flask==", r"\+ gunicorn=="),
        says="hello-python is starting",
        file="app.py",
    ),
    "fastapi-uv": Example(
        ("plan: python fastapi", "install: uv pip install", r"\+ fastapi==", r"\+ uvicorn=="),
        says="fastapi-uv is starting",
        file="main.py",
    ),
    "express": Example(
        ("plan: node express", "install: npm ci", r"added \d+ packages"), says="express is listening on port", file="server.js"
    ),
    "static-site": Example(("plan: static", r"pack: [1-9]\d* files"), mode="static", file="index.html"),
    "vite-react": Example(
        ("plan: node vite", "install: npm ci", "build: npm run build", r"vite v\d+\..*building", "modules transformed"),
        mode="spa",
    ),
}
NEEDS_NODE = {"express", "vite-react"}
OLD, NEW = "Hello from Shipoff", "Hello again from Shipoff"


def states(deployment: dict) -> list[str]:
    return [transition["to"] for transition in deployment["transitions"]]


def in_order(patterns: tuple[str, ...], lines: list[str]) -> bool:
    """Whether each pattern is found in a line after that of the one before."""
    rest = iter(lines)
    return all(any(re.search(pattern, line) for line in rest) for pattern in patterns)


def greeting(platform: Platform, example: str) -> str:
    """What a browser shows of an example: a bundle's text where the page itself is empty."""
    page = platform.page(example)
    if example != "vite-react":
        return page
    assert '<div id="root"></div>' in page
    (bundle,) = re.findall(r'<script type="module"[^>]* src="(/assets/[^"]+\.js)"', page)
    answer = platform.get(f"{example}.localhost", bundle)
    assert answer.status_code == 200
    assert "javascript" in answer.headers["content-type"]
    # React itself, and the app's own words; the page of an SPA answers for every path, so that it must not be this.
    assert "react.dev" in answer.text
    assert "<!doctype" not in answer.text[:200].lower()
    parts = ["Hello from ", "Shipoff", "This page is "]
    assert all(part in answer.text for part in parts), answer.text[-2000:]
    return "".join(parts[:2])


def replaced_without_a_gap(platform: Platform, folder: Path, project: str) -> None:
    """Deploys the next version while somebody reads the page: first the old greeting, from some answer on the new one."""
    with Visitor(platform, project) as visitor:
        wait_until(lambda: visitor.seen == [OLD])
        platform.deploy(folder, project)
        wait_until(lambda: visitor.seen[-1] == NEW)
        answers = visitor.answers
        # It goes on reading: an old answer might come from somewhere yet.
        wait_until(lambda: visitor.answers >= answers + 20)
    assert visitor.failures == []
    assert visitor.seen == [OLD, NEW]
    wait_until(lambda: platform.api("GET", f"/v1/projects/{project}/deployments").json()["items"][1]["state"] == "inactive")


class Visitor:
    """Somebody who reads a page all the time: which greetings came one after the other, and every answer that had neither."""

    def __init__(self, platform: Platform, project: str) -> None:
        self.seen: list[str] = []
        self.failures: list[str] = []
        self.answers = 0
        self._platform, self._project = platform, project
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Visitor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._stop.is_set():
            try:
                answer = self._platform.get(f"{self._project}.localhost")
            except httpx2.HTTPError as error:
                self.failures.append(repr(error))
                continue
            found = [text for text in (OLD, NEW) if text in answer.text]
            if answer.status_code != 200 or len(found) != 1:
                self.failures.append(f"{answer.status_code} {answer.text[:200]}")
            elif self.seen[-1:] != found:
                self.seen += found
            self.answers += 1
            time.sleep(0.01)
