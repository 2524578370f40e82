"""Builds as Jobs under the whole platform: SHIPOFF_BUILD_BUILDERS=kubernetes and its other settings say where (make help)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from e2e.harness import Platform, wait_until
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Pod
from neighbours.kube_platform import ClusterPlatform

from shipoff.build.manifests.marks import ATTEMPT, DEPLOYMENT, PLATFORM

pytestmark = pytest.mark.skipif(os.environ.get("SHIPOFF_BUILD_BUILDERS") != "kubernetes", reason="builds are no Jobs here")


def slow_site(folder: Path) -> Path:
    """A source whose build takes a while."""
    (folder / "index.html").write_text("built on pods")
    (folder / "shipoff.toml").write_text('[build]\nbuild_command = "sleep 12"\noutput_directory = "."\n')
    return folder


def builds(cluster: ClusterPlatform, kind: type, deployment_id: str) -> list:
    """A deployment's Jobs or pods."""
    return list(cluster.client.list(kind, namespace="*", labels={PLATFORM: cluster.name, DEPLOYMENT: deployment_id}))


def running(cluster: ClusterPlatform, deployment_id: str) -> list[Pod]:
    """Its pods whose builder runs, those on their way out left aside."""
    found = builds(cluster, Pod, deployment_id)
    return [one for one in found if one.status.phase == "Running" and one.metadata.deletionTimestamp is None]


def test_a_build_whose_pod_is_deleted_begins_again_and_goes_live(
    cluster: ClusterPlatform, platform: Platform, tmp_path: Path
) -> None:
    platform.cli("deploy", str(slow_site(tmp_path)), "--project", "lost", "--json", "--detach")
    deployment_id = platform.latest("lost")["id"]
    wait_until(lambda: running(cluster, deployment_id), timeout_s=60, what="no pod of the build runs")
    pod = running(cluster, deployment_id)[0]
    cluster.client.delete(Pod, pod.metadata.name, namespace=pod.metadata.namespace)

    def attempts() -> set[str]:
        return {one.metadata.labels[ATTEMPT] for one in builds(cluster, Job, deployment_id)}

    wait_until(lambda: "2" in attempts(), timeout_s=40, what=lambda: f"no second attempt: {attempts()}")
    wait_until(
        lambda: platform.latest("lost")["state"] == "production", timeout_s=90, what=lambda: f"{platform.latest('lost')}"
    )
    assert "built on pods" in platform.page("lost")
    wait_until(lambda: not builds(cluster, Job, deployment_id), timeout_s=30, what="its Jobs are still there")


def test_a_cancelled_deployment_leaves_no_job(cluster: ClusterPlatform, platform: Platform, tmp_path: Path) -> None:
    platform.cli("deploy", str(slow_site(tmp_path)), "--project", "cancelled", "--json", "--detach")
    deployment_id = platform.latest("cancelled")["id"]
    wait_until(lambda: running(cluster, deployment_id), timeout_s=60, what="no pod of the build runs")
    platform.api("POST", f"/v1/deployments/{deployment_id}/cancel").raise_for_status()
    wait_until(lambda: not builds(cluster, Job, deployment_id), timeout_s=10, what="its Job is still there")
    assert platform.latest("cancelled")["state"] == "inactive"
