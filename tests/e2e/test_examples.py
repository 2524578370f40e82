"""Each example app through the whole platform: what it serves, the states it passed, what its log says."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e.examples import EXAMPLES_SERVED, NEEDS_NODE, OLD, greeting, in_order, replaced_without_a_gap, states
from e2e.harness import EXAMPLES, Platform, wait_until


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
        replaced_without_a_gap(platform, folder, example)


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
