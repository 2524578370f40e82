"""The whole platform as a newcomer starts it, and its CLI as a person calls it. Everything real, over real sockets."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from neighbours.ports import free_port

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# A source's server.py that shows the folder it is started in.
SERVER = """import os
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), SimpleHTTPRequestHandler).serve_forever()
"""
_START_S = 120.0
_STOP_S = 60.0


@dataclass
class Answer:
    """What a CLI call gave."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its standard output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines() if line.strip()]


@dataclass
class Platform:
    """A platform in a data folder of its own."""

    home: Path
    port: int
    separate: bool = False
    extra: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What the platform and its CLI are started with."""
        return os.environ | {
            "SHIPOFF_HOME": str(self.home),
            "SHIPOFF_HTTP_PORT": str(self.port),
            "SHIPOFF_URL": f"http://localhost:{self.port}",
            "XDG_CONFIG_HOME": str(self.home.parent / f"{self.home.name}-config"),
            "NO_COLOR": "1",
            **self.extra,
        }

    def start(self) -> None:
        """Starts it and waits until the API answers."""
        argv = [sys.executable, "-m", "shipoff", "up", "--no-sample", *(["--separate"] if self.separate else [])]
        self.output = (self.home.parent / f"{self.home.name}.out").open("ab")
        self.process = subprocess.Popen(argv, env=self.environment, stdout=self.output, stderr=subprocess.STDOUT)
        wait_until(self._signed_in, timeout_s=_START_S, what=lambda: f"the platform did not start:\n{self.printed()}")

    def _signed_in(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the platform ended with {self.process.returncode}:\n{self.printed()}")
        return "Live:" in self.printed().rpartition("Stopped.")[2]

    def printed(self) -> str:
        """What `up` said so far."""
        return Path(self.output.name).read_text(errors="replace")

    def log(self) -> str:
        """The platform's log."""
        return "\n".join(path.read_text(errors="replace") for path in sorted((self.home / "log").glob("*.log")))

    def stop(self, number: int = signal.SIGINT) -> int:
        """Ends it with a signal; its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(_STOP_S)

    def cli(self, *arguments: str, code: int | None = 0, timeout_s: float = 120) -> Answer:
        """Calls the CLI; asserts its exit code unless that is None."""
        argv = [sys.executable, "-m", "shipoff", *arguments]
        done = subprocess.run(argv, env=self.environment, capture_output=True, text=True, timeout=timeout_s, check=False)
        answer = Answer(done.returncode, done.stdout, done.stderr)
        if code is not None:
            assert answer.code == code, (
                f"{arguments}: exit code {answer.code}\n{answer.out}\n{answer.err}\n{self.log()[-6000:]}"
            )
        return answer

    def deploy(self, folder: Path, project: str, *options: str, code: int = 0) -> dict[str, Any]:
        """Deploys a folder; the deployment as it rests."""
        self.cli("deploy", str(folder), "--project", project, "--json", *options, code=code)
        return self.latest(project)

    def latest(self, project: str) -> dict[str, Any]:
        """The project's newest deployment, with its transitions."""
        newest = self.api("GET", f"/v1/projects/{project}/deployments?limit=1").json()["items"][0]
        deployment: dict[str, Any] = self.api("GET", f"/v1/deployments/{newest['id']}").json()
        return deployment

    @property
    def token(self) -> str:
        """The CLI's own token."""
        path = Path(self.environment["XDG_CONFIG_HOME"]) / "shipoff" / "credentials.json"
        return str(_find_token(json.loads(path.read_text())))

    def api(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """Calls the REST API as the owner."""
        headers = {"Authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        return httpx2.request(method, f"http://localhost:{self.port}{path}", headers=headers, timeout=30, **options)

    def get(self, host: str, path: str = "/") -> httpx2.Response:
        """What a browser gets from an app."""
        return httpx2.get(f"http://127.0.0.1:{self.port}{path}", headers={"Host": f"{host}:{self.port}"}, timeout=15)

    def page(self, project: str, path: str = "/") -> str:
        """A page of a project's production."""
        return self.get(f"{project}.localhost", path).text

    def logs(self, project: str, *options: str) -> list[str]:
        """The texts of a deployment's log lines."""
        return [line["text"] for line in self.cli("logs", "--project", project, "--json", *options).lines if "text" in line]

    def remove(self) -> None:
        """Ends what runs and deletes the data folder."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        for path in (self.home, Path(self.environment["XDG_CONFIG_HOME"])):
            shutil.rmtree(path, ignore_errors=True)


def _find_token(value: Any) -> str | None:
    if isinstance(value, str):
        return value if value.startswith("shp_") else None
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return next((token for item in items if (token := _find_token(item))), None)


def wait_until(condition: Callable[[], Any], *, timeout_s: float = 30, what: Callable[[], str] | str = "") -> Any:
    """Polls until the condition holds; its value. Raises AssertionError with `what` after the time."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(what() if callable(what) else what or f"{condition} did not come true in {timeout_s} s")
        time.sleep(0.05)


def new_platform(**options: Any) -> Platform:
    """A platform that is not started yet."""
    return Platform(Path(tempfile.mkdtemp(prefix="e2e-", dir="/tmp")).resolve(), free_port(), **options)
