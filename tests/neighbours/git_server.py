"""Repositories over smart HTTP: git's own http-backend (git-http-backend(1)) behind a small server."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

_AUTHOR = {
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.com",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.com",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
}


class GitServer:
    """Bare repositories below a folder, at http://<address>:<port>/<name>.git."""

    def __init__(self, root: Path, port: int, address: str = "127.0.0.1") -> None:
        self.root = root
        self.port = port
        self.address = address
        self.requests: list[str] = []
        # While set, requests wait: a server that has stopped answering.
        self.hold = threading.Event()
        # "user:token" that it asks for; empty: it lets everybody in.
        self.token = ""

    @property
    def host(self) -> str:
        """host:port, as it is written into an allow-list."""
        return f"{self.address}:{self.port}"

    def url(self, name: str) -> str:
        """A repository's URL."""
        return f"http://{self.host}/{name}.git"

    def git(self, *arguments: str, folder: Path, stdin: str = "") -> str:
        """Runs git as a developer does."""
        environment = {**os.environ, **_AUTHOR}
        done = subprocess.run(
            ["git", *arguments], cwd=folder, env=environment, check=True, capture_output=True, text=True, input=stdin
        )
        return done.stdout.strip()

    def push(self, name: str, files: Mapping[str, str | bytes], *, branch: str = "main", message: str = "a change") -> str:
        """Commits these files on a branch of a repository, made where it is missing; the commit's id."""
        bare, work = self.root / f"{name}.git", self.root / f"{name}.work"
        if not bare.exists():
            self.git("init", "--quiet", "--bare", "--initial-branch=main", str(bare), folder=self.root)
            self.git("init", "--quiet", "--initial-branch=main", str(work), folder=self.root)
        self.git("checkout", "--quiet", "-B", branch, folder=work)
        for path, content in files.items():
            target = work / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode() if isinstance(content, str) else content)
        self.git("add", "--all", "--force", folder=work)
        self.git("commit", "--quiet", "--allow-empty", "-m", message, folder=work)
        self.git("push", "--quiet", "--force", str(bare), f"HEAD:refs/heads/{branch}", folder=work)
        return self.git("rev-parse", "HEAD", folder=work)

    def tag(self, name: str, tag: str) -> None:
        """Tags what was pushed last."""
        work = self.root / f"{name}.work"
        self.git("tag", "--force", tag, folder=work)
        self.git("push", "--quiet", str(self.root / f"{name}.git"), f"refs/tags/{tag}", folder=work)


def _chunks(stream: BinaryIO) -> bytes:
    """A body in chunks (RFC 9112, 7.1), as libgit2 pushes."""
    body = b""
    while size := int(stream.readline().split(b";")[0], 16):
        body += stream.read(size)
        stream.readline()
    stream.readline()
    return body


def _handler(server: list[GitServer]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """One request, handed to http-backend as a CGI program (RFC 3875)."""

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

        def do_GET(self) -> None:
            self._serve(b"")

        def do_POST(self) -> None:
            chunked = self.headers.get("transfer-encoding", "") == "chunked"
            self._serve(_chunks(self.rfile) if chunked else self.rfile.read(int(self.headers.get("content-length", 0))))

        def _serve(self, body: bytes) -> None:
            git = server[0]
            git.requests.append(f"{self.command} {self.path}")
            if git.token and self.headers.get("authorization") != f"Basic {b64encode(git.token.encode()).decode()}":
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            while git.hold.is_set():
                time.sleep(0.05)
            parts = urlsplit(self.path)
            environment = {
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(git.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "safe.directory",
                "GIT_CONFIG_VALUE_0": "*",
                "REQUEST_METHOD": self.command,
                "PATH_INFO": parts.path,
                "QUERY_STRING": parts.query,
                "CONTENT_TYPE": self.headers.get("content-type", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", ""),
                "CONTENT_LENGTH": str(len(body)),
                "GIT_PROTOCOL": self.headers.get("git-protocol", ""),
            }
            done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=False)
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            fields = [line.split(": ", 1) for line in head.decode().splitlines() if ": " in line]
            status = next((int(value.split()[0]) for name, value in fields if name == "Status"), 200)
            self.send_response(status)
            for name, value in fields:
                if name != "Status":
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler


@contextmanager
def git_serving(root: Path, address: str = "127.0.0.1") -> Iterator[GitServer]:
    """Serves until the context is left."""
    holder: list[GitServer] = []
    http = ThreadingHTTPServer((address, 0), _handler(holder))
    server = GitServer(root, http.server_address[1], address)
    holder.append(server)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
