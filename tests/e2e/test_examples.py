"""Each example app through the whole platform: what it serves, the states it passed, what its log says."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from e2e.harness import EXAMPLES, Platform, wait_until


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


@pytest.mark.parametrize("example", EXAMPLES_SERVED)
def test_an_example_goes_live_and_serves_until_its_next_version_answers(
    platform: Platform, copied, request: pytest.FixtureRequest, example: str
):
    if example in NEEDS_NODE:
        request.getfixturevalue("node")
    known = EXAMPLES_SERVED[example]
    folder: Path = copied(example)
    deployment = platform.deploy(folder, example)
    assert states(deployment) == ["building", "provisioning", "production"]
    assert deployment["plan"]["mode"] == known.mode
    assert OLD in greeting(platform, example)
    build_log = platform.logs(example, "--build")
    assert in_order((*known.tools, "upload: sha256:"), build_log), build_log
    if known.says:
        wait_until(lambda: any(known.says in line for line in platform.logs(example)), what="the app's own lines are missing")
    if known.file:
        source = folder / known.file
        source.write_text(source.read_text().replace("Hello from", "Hello again from"))
        _replaced_without_a_gap(platform, folder, example)


def _replaced_without_a_gap(platform: Platform, folder: Path, project: str) -> None:
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


def test_a_build_that_fails_says_why_and_where(platform: Platform):
    answer = platform.cli("deploy", str(EXAMPLES / "fails-to-build"), "--project", "fails", code=1)
    deployment = platform.latest("fails")
    assert states(deployment) == ["building", "failed"]
    assert "exited with code" in deployment["reason"]
    assert deployment["reason"] in answer.out + answer.err
    assert platform.get("fails.localhost").status_code == 404


def test_an_app_that_crashes_fails_with_its_last_words(platform: Platform):
    platform.api("POST", "/v1/projects", json={"name": "crashes"}).raise_for_status()
    platform.cli("env", "set", "CRASH_AFTER_S=0", "--project", "crashes")
    deployment = platform.deploy(EXAMPLES / "crashes-after-start", "crashes", code=1)
    assert states(deployment)[-1] == "failed"
    assert "exited 3 times before it was ready: exit code 1" in deployment["reason"]
    assert "crashing: its time is over" in deployment["reason"]


def test_an_app_that_crashes_after_it_was_ready_is_started_again(platform: Platform):
    platform.deploy(EXAMPLES / "crashes-after-start", "restless")
    platform.get("restless.localhost", "/crash")

    def restarted() -> bool:
        instance = platform.api("GET", "/v1/projects/restless/status").json()["workload"]["instances"][0]
        return instance["restarts"] >= 1 and instance["ready"] and instance["last_exit"] == "exit code 1"

    wait_until(restarted)
    assert "Hello from Shipoff" in platform.page("restless")


def test_an_app_that_never_listens_fails_and_the_old_version_serves_on(platform: Platform, copied):
    platform.deploy(EXAMPLES / "hello-python", "steady")
    platform.api("PATCH", "/v1/projects/steady", json={"run": {"ready_timeout_s": 4}}).raise_for_status()
    deployment = platform.deploy(EXAMPLES / "never-ready", "steady", code=1)
    assert states(deployment) == ["building", "provisioning", "failed"]
    assert "ready" in deployment["reason"]
    assert "Hello from Shipoff" in platform.page("steady")
    live = platform.api("GET", "/v1/projects/steady/status").json()["live"]
    assert live["number"] == 1


def test_a_server_that_listens_but_cannot_load_its_app_does_not_go_live(platform: Platform, copied):
    folder: Path = copied("hello-python")
    platform.deploy(folder, "unloadable")
    (folder / "app.py").write_text("import nothing_of_that_name\n" + (folder / "app.py").read_text())
    deployment = platform.deploy(folder, "unloadable", code=1)
    assert states(deployment) == ["building", "provisioning", "failed"]
    assert "Hello from Shipoff" in platform.page("unloadable")
    assert any("nothing_of_that_name" in line for line in platform.logs("unloadable", "--deployment", "2"))


def test_a_rollback_brings_the_old_page_back_without_a_build(platform: Platform, copied):
    folder: Path = copied("static-site")
    platform.deploy(folder, "back")
    (folder / "index.html").write_text("<h1>second</h1>")
    platform.deploy(folder, "back")
    assert "second" in platform.page("back")
    platform.cli("rollback", "--project", "back", "--json")
    deployment = platform.latest("back")
    assert states(deployment) == ["provisioning", "production"]
    assert "Hello from Shipoff" in platform.page("back")


def test_variables_reach_the_app_and_only_its_next_release(platform: Platform, tmp_path: Path):
    (tmp_path / "app.py").write_text(
        "import http.server, os\n"
        "class Page(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers()\n"
        "        self.wfile.write(('GREETING=' + os.environ.get('GREETING', 'none')).encode())\n"
        "http.server.ThreadingHTTPServer(('', int(os.environ['PORT'])), Page).serve_forever()\n"
    )
    (tmp_path / "Procfile").write_text("web: python3 app.py\n")
    platform.deploy(tmp_path, "greeter")
    assert platform.page("greeter") == "GREETING=none"
    platform.cli("env", "set", "GREETING=hello", "--project", "greeter")
    assert platform.page("greeter") == "GREETING=none"
    platform.cli("redeploy", "--current-env", "--project", "greeter", "--json")
    wait_until(lambda: platform.page("greeter") == "GREETING=hello")


def test_scaling_adds_and_removes_instances(platform: Platform):
    platform.deploy(EXAMPLES / "hello-python", "wide")
    platform.cli("scale", "3", "--project", "wide")

    def ready() -> int:
        status = platform.api("GET", "/v1/projects/wide/status").json()
        return sum(instance["ready"] for instance in status["workload"]["instances"])

    wait_until(lambda: ready() == 3)
    platform.cli("scale", "1", "--project", "wide")
    wait_until(lambda: ready() == 1)
    assert "Hello from Shipoff" in platform.page("wide")


def test_a_destroyed_project_is_gone_everywhere(platform: Platform):
    platform.deploy(EXAMPLES / "static-site", "shortlived")
    assert "Hello" in platform.page("shortlived")
    platform.cli("destroy", "--yes", "--project", "shortlived")
    wait_until(lambda: platform.get("shortlived.localhost").status_code == 404)
    assert platform.api("GET", "/v1/projects/shortlived").status_code == 404


def test_an_unknown_host_is_nobody_s(platform: Platform):
    answer = platform.get("nobody.localhost")
    assert answer.status_code == 404
