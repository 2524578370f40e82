"""The app of the runtime's tests: `app.py <mode> [argument…] <port>`."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODE, *ARGUMENTS = sys.argv[1:]
# Tells this run from every other; inside a sandbox they all have the same process number.
RUN = secrets.token_hex(8)


def looked(path: Path) -> str:
    """What is there, as far as this app may see it."""
    try:
        if path.is_dir():
            return " ".join(sorted(entry.name for entry in path.iterdir()))
        if path.is_socket():
            with socket.socket(socket.AF_UNIX) as dial:
                dial.connect(str(path))
            return "answers"
        return path.read_text(errors="replace")
    except OSError as error:
        return type(error).__name__


def environments() -> str:
    """Those of every process in sight."""
    return " ".join(looked(entry / "environ") for entry in Path("/proc").iterdir() if entry.name.isdigit())


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/crash":
            os._exit(3)
        if self.path == "/hoard":
            self.server.hoard = bytearray(os.urandom(1 << 20) * 200)  # type: ignore[attr-defined]
        if self.path.startswith("/say/"):
            _, _, name, count = self.path.split("/")
            print("\n".join(f"{name} {number}" for number in range(int(count))), flush=True)
        status = 500 if self.path == "/unwell" else 200
        text = f"run {RUN} uid {os.getuid()} HELLO={os.environ.get('HELLO', '')}"
        if self.path.startswith("/look/"):
            text = looked(Path(self.path.removeprefix("/look")))
        if self.path == "/environments":
            text = environments()
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def serve() -> None:
    port = int(ARGUMENTS[-1])
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    print(f"listening on {port}", flush=True)
    server.serve_forever()


def ended(*_: object) -> None:
    print("goodbye", flush=True)
    sys.exit(0)


if MODE == "serve":
    signal.signal(signal.SIGTERM, ended)
    serve()
elif MODE == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    serve()
elif MODE == "family":
    # A child of its own session, and a grandchild that nobody waits for.
    subprocess.Popen([sys.executable, __file__, "sleep"], start_new_session=True)
    subprocess.Popen([sys.executable, __file__, "sleep"])
    serve()
elif MODE == "sleep":
    print("working", flush=True)
    time.sleep(600)
elif MODE == "crash":
    print("cannot find the flux capacitor", file=sys.stderr, flush=True)
    sys.exit(7)
elif MODE == "fragile":
    # Serves once, then fails at every further start.
    marker = Path(os.environ["HOME"]) / "started"
    if marker.exists():
        sys.exit(9)
    marker.touch()
    serve()
elif MODE == "talk":
    for number in range(int(ARGUMENTS[0])):
        print(f"line {number}", flush=number % 100 == 0)
    serve()
