"""What breaks on a real cluster, and mends without help: rows 3, 4, 23 and 24 of the faults, through the whole platform."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from e2e.examples import NEW, OLD, Visitor, states
from e2e.harness import EXAMPLES, Platform, wait_until
from lightkube.resources.core_v1 import Namespace, Pod, Secret, Service
from neighbours.kube_platform import ClusterPlatform, cluster_platform, says

from shipoff.runtime.manifests.marks import RELEASE


@pytest.fixture(scope="module")
def apart() -> Iterator[ClusterPlatform]:
    """A platform with a process for each service, so that one can be killed."""
    with cluster_platform(separate=True) as made:
        yield made


def kill(platform: Platform, service: str) -> None:
    """Ends the service as the kernel would."""
    written = json.loads((platform.home / "run" / f"{service}.pid").read_text())
    os.kill(written["pid"], signal.SIGKILL)


def secrets(cluster: ClusterPlatform, project: str) -> int:
    return sum(1 for _ in cluster.client.list(Secret, namespace=cluster.namespace(project)))


def routed(cluster: ClusterPlatform, project: str) -> str:
    """The release that its Service leads to."""
    return str(cluster.client.get(Service, "production", namespace=cluster.namespace(project)).spec.selector[RELEASE])


def newest_state(platform: Platform, project: str) -> str:
    """Of its newest deployment; nothing while a service is away."""
    answer = platform.api("GET", f"/v1/projects/{project}/deployments?limit=1")
    return str(answer.json()["items"][0]["state"]) if answer.status_code == 200 else ""


@contextmanager
def deploying(platform: Platform, folder: Path, project: str) -> Iterator[None]:
    """Deploys beside the block, and waits for the end of that."""
    thread = threading.Thread(target=lambda: platform.cli("deploy", str(folder), "--project", project, code=None))
    thread.start()
    yield
    thread.join(180)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("service", "moment"),
    [
        ("runtime", "a Deployment more"),
        ("runtime", "the Service switched"),
        ("orchestrator", "the Service switched"),
    ],
)
def test_a_service_that_dies_while_a_release_takes_over_leaves_the_old_one_serving_until_the_new_does(
    apart: ClusterPlatform, tmp_path: Path, service: str, moment: str
) -> None:
    platform, project = apart.platform, f"dies-{service}-{len(moment)}"
    platform.deploy(says(tmp_path, OLD), project)
    wait_until(lambda: OLD in platform.page(project))
    before = routed(apart, project)
    reached: dict[str, Callable[[], bool]] = {
        "a Deployment more": lambda: len(apart.deployments(project)) == 2,
        "the Service switched": lambda: routed(apart, project) != before,
    }
    with Visitor(platform, project) as visitor:
        wait_until(lambda: visitor.seen == [OLD])
        with deploying(platform, says(tmp_path, NEW), project):
            wait_until(reached[moment], timeout_s=120)
            kill(platform, service)
        wait_until(lambda: newest_state(platform, project) == "production", timeout_s=120)
        wait_until(lambda: visitor.seen[-1] == NEW, timeout_s=30)
    assert visitor.failures == []
    assert visitor.seen == [OLD, NEW]
    every = platform.api("GET", f"/v1/projects/{project}/deployments").json()["items"]
    assert [one["state"] for one in every] == ["production", "inactive"]
    # The one before is the way back; nothing else is left.
    assert len(apart.deployments(project)) == 2


def test_deleted_pods_and_namespaces_come_back_within_half_a_minute(cluster: ClusterPlatform, tmp_path: Path) -> None:
    platform = cluster.platform
    platform.deploy(says(tmp_path, OLD), "deleted")
    wait_until(lambda: OLD in platform.page("deleted"))
    [pod] = cluster.pods("deleted")
    cluster.client.delete(Pod, pod.metadata.name, namespace=pod.metadata.namespace)

    def back() -> bool:
        pods = cluster.pods("deleted")
        return bool(pods) and pods[0].metadata.uid != pod.metadata.uid and OLD in platform.get("deleted.localhost").text

    wait_until(back, timeout_s=30)
    namespace = cluster.client.get(Namespace, cluster.namespace("deleted"))
    cluster.client.delete(Namespace, namespace.metadata.name)

    def gone() -> bool:
        return all(one.metadata.uid != namespace.metadata.uid for one in cluster.client.list(Namespace))

    # Kubernetes takes its own time to take one away.
    wait_until(gone, timeout_s=120)
    wait_until(lambda: OLD in platform.get("deleted.localhost").text, timeout_s=30)


@pytest.mark.parametrize(
    ("example", "variables", "reason"),
    [
        ("never-ready", (), "never became ready: nothing answered on port"),
        ("crashes-after-start", ("CRASH_AFTER_S=0",), "exited 3 times before it was ready: exit code 1"),
    ],
)
def test_a_release_that_does_not_come_up_says_why_and_the_old_one_serves(
    cluster: ClusterPlatform, tmp_path: Path, example: str, variables: tuple[str, ...], reason: str
) -> None:
    platform, project = cluster.platform, f"down-{example}"
    platform.deploy(says(tmp_path, OLD), project)
    platform.api("PATCH", f"/v1/projects/{project}", json={"run": {"ready_timeout_s": 30}}).raise_for_status()
    for one in variables:
        platform.cli("env", "set", one, "--project", project)
    deployment = platform.deploy(EXAMPLES / example, project, code=1)
    assert states(deployment) == ["building", "provisioning", "failed"]
    assert reason in deployment["reason"]
    assert OLD in platform.page(project)
    wait_until(lambda: len(cluster.deployments(project)) == 1, timeout_s=60)
    assert secrets(cluster, project) == 1
