"""Serves until CRASH_AFTER_S seconds after its start (default 5), or a visit to /crash, then dies; after /break, for good."""

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BROKEN = Path("broken")


def crash(reason: str) -> None:
    print(f"crashing: {reason}", flush=True)
    os._exit(1)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/crash":
            crash("asked to")
        if self.path == "/break":
            # After the answer: whoever got none might ask again, and break the next one too.
            BROKEN.touch()
            threading.Timer(0.2, crash, ["asked to, and to stay broken"]).start()
        body = b"Hello from Shipoff, for a moment\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, message: str, *values: object) -> None:
        print(message % values, flush=True)


if BROKEN.exists():
    crash("it was broken by a visit to /break")
port = int(os.environ.get("PORT", "8000"))
after_s = float(os.environ.get("CRASH_AFTER_S", "5"))
print(f"crashes-after-start is listening on port {port}, for {after_s:g} s", flush=True)
timer = threading.Timer(after_s, crash, ["its time is over"])
timer.daemon = True
timer.start()
ThreadingHTTPServer(("", port), Handler).serve_forever()
