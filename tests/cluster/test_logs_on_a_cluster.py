"""What pods write reaches `shipoff logs`: once, in order, across restarts of the container and of the platform."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from e2e.harness import Platform, wait_until
from neighbours.kube_platform import ClusterPlatform

# Says a number ten times a second, serves, and ends when it is asked to.
APP = """
import http.server, os, sys, threading, time
def count():
    n = 0
    while True:
        n += 1
        print(f"{os.environ['HOSTNAME']} run {RUN} line {n}", flush=True)
        time.sleep(0.1)
RUN = int(time.time() * 1000)
threading.Thread(target=count, daemon=True).start()
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/crash":
            print("last words", flush=True)
            os._exit(3)
        self.send_response(200); self.end_headers(); self.wfile.write(b"counting")
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), Page).serve_forever()
"""


def counted(platform: Platform, project: str) -> dict[str, list[int]]:
    """By run, the numbers of its lines in the order in which they are kept."""
    found: dict[str, list[int]] = {}
    for text in platform.logs(project, "-n", "5000"):
        if line := re.search(r"run (\d+) line (\d+)", text):
            found.setdefault(line[1], []).append(int(line[2]))
    return found


def whole(numbers: list[int]) -> bool:
    return numbers == list(range(1, len(numbers) + 1))


def test_lines_of_pods_are_followed_and_none_is_lost_or_repeated(
    cluster: ClusterPlatform, platform: Platform, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "Procfile").write_text("web: python3 app.py\n")
    platform.deploy(tmp_path, "counter")
    follow = subprocess.Popen(
        [sys.executable, "-m", "shipoff", "logs", "-f", "--project", "counter", "--json"],
        env=platform.environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert follow.stdout is not None
        texts = (json.loads(line).get("text", "") for line in follow.stdout)
        assert any("line 20" in text for text in texts)
    finally:
        follow.terminate()
    wait_until(lambda: "counting" in platform.get("counter.localhost").text)
    platform.get("counter.localhost", "/crash")
    wait_until(lambda: len(counted(platform, "counter")) == 2, timeout_s=90)
    platform.stop()
    platform.start()
    runs = len(counted(platform, "counter"))
    before = max(map(len, counted(platform, "counter").values()))
    wait_until(lambda: max(map(len, counted(platform, "counter").values())) > before + 100, timeout_s=60)
    found = counted(platform, "counter")
    assert len(found) == runs
    assert all(whole(numbers) for numbers in found.values()), found
    assert "last words" in platform.logs("counter", "-n", "5000")
