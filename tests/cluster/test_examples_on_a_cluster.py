"""Each example app through the whole platform onto a cluster: built as an image, live through an ingress, replaced, back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from e2e.examples import EXAMPLES_SERVED, NEW, OLD, greeting, replaced_without_a_gap, states
from e2e.harness import EXAMPLES, Platform, wait_until
from neighbours.kube_platform import REGISTRY, ClusterPlatform

Copied = Callable[[str], Path]
ON_PODS = [name for name, known in EXAMPLES_SERVED.items() if known.mode == "server"]


def shows(platform: Platform, project: str, text: str) -> None:
    """Waits until its page has the text: an ingress controller follows in its own time."""
    wait_until(
        lambda: text in platform.get(f"{project}.localhost").text, what=lambda: platform.get(f"{project}.localhost").text
    )


@pytest.mark.parametrize("example", ON_PODS)
def test_an_example_goes_live_on_pods_and_is_replaced_without_a_gap(
    cluster: ClusterPlatform, platform: Platform, copied: Copied, example: str
) -> None:
    folder = copied(example)
    deployment = platform.deploy(folder, example)
    assert states(deployment) == ["building", "provisioning", "production"]
    shows(platform, example, OLD)
    images = {one.spec.containers[0].image for one in cluster.pods(example)}
    assert len(images) == 1
    assert images.pop().startswith(f"{REGISTRY}/")
    source = folder / EXAMPLES_SERVED[example].file
    source.write_text(source.read_text().replace("Hello from", "Hello again from"))
    replaced_without_a_gap(platform, folder, example)
    platform.cli("rollback", "--project", example, "--json")
    assert states(platform.latest(example)) == ["provisioning", "production"]
    shows(platform, example, OLD)


@pytest.mark.parametrize("example", [name for name in EXAMPLES_SERVED if name not in ON_PODS])
def test_pages_built_as_an_image_are_served_by_the_edge(platform: Platform, copied: Copied, example: str) -> None:
    platform.deploy(copied(example), example)
    assert OLD in greeting(platform, example)


def test_a_build_that_fails_leaves_nothing_on_the_cluster(cluster: ClusterPlatform, platform: Platform) -> None:
    deployment = platform.deploy(EXAMPLES / "fails-to-build", "fails", code=1)
    assert states(deployment) == ["building", "failed"]
    assert cluster.namespace("fails") == ""


def test_an_app_that_crashes_after_it_was_ready_is_started_again(platform: Platform) -> None:
    platform.deploy(EXAMPLES / "crashes-after-start", "restless")
    shows(platform, "restless", OLD)
    platform.get("restless.localhost", "/crash")

    def restarted() -> bool:
        instance = platform.api("GET", "/v1/projects/restless/status").json()["workload"]["instances"][0]
        return instance["restarts"] >= 1 and instance["ready"]

    wait_until(restarted, timeout_s=60)
    shows(platform, "restless", OLD)


def test_variables_reach_the_pods_of_the_next_release_only(platform: Platform, tmp_path: Path) -> None:
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
    shows(platform, "greeter", "GREETING=none")
    platform.cli("env", "set", "GREETING=hello", "--project", "greeter")
    platform.cli("redeploy", "--current-env", "--project", "greeter", "--json")
    shows(platform, "greeter", "GREETING=hello")


def test_a_destroyed_project_takes_its_namespace_with_it(cluster: ClusterPlatform, platform: Platform) -> None:
    platform.deploy(EXAMPLES / "hello-python", "shortlived")
    shows(platform, "shortlived", OLD)
    namespace = cluster.namespace("shortlived")
    platform.cli("destroy", "--yes", "--project", "shortlived")
    wait_until(lambda: not cluster.exists(namespace), timeout_s=60, what=f"{namespace} stayed")
    wait_until(
        lambda: NEW not in platform.get("shortlived.localhost").text and OLD not in platform.get("shortlived.localhost").text
    )
