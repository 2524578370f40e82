"""What tenants try on a real cluster, and what it comes to."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from e2e.examples import OLD
from e2e.harness import wait_until
from lightkube import ApiError
from lightkube.models.core_v1 import Container, PodSpec, SecurityContext
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Pod, ResourceQuota, ServiceAccount
from neighbours.kube_platform import ClusterPlatform, says
from neighbours.kube_runtime import IMAGE

# What one tenant asks for in a burst.
_BURST = 1000


@pytest.mark.parametrize("name", ["kube-system", "kube-public", "default", "a" * 300, "Über", "a b", "-", "../x", "x.y"])
def test_names_that_are_the_cluster_s_or_no_labels_are_refused(cluster: ClusterPlatform, name: str) -> None:
    answer = cluster.platform.api("POST", "/v1/projects", json={"name": name})
    assert answer.status_code == 400, answer.text


def test_a_tenant_s_pods_are_restricted_and_hold_no_token(cluster: ClusterPlatform, tmp_path: Path) -> None:
    cluster.platform.deploy(says(tmp_path, OLD), "fenced")
    [pod] = cluster.pods("fenced")
    mounted = [mount.mountPath for one in pod.spec.containers for mount in one.volumeMounts or ()]
    assert mounted == ["/tmp"]
    assert [one.name for one in pod.spec.volumes] == ["tmp"]
    namespace = cluster.namespace("fenced")
    assert cluster.client.get(ServiceAccount, "app", namespace=namespace).automountServiceAccountToken is False
    [quota] = list(cluster.client.list(ResourceQuota, namespace=namespace))
    assert int(quota.spec.hard["pods"]) == 50
    # The cluster itself refuses what gets past the platform.
    privileged = Container(name="app", image=IMAGE, securityContext=SecurityContext(privileged=True))
    with pytest.raises(ApiError, match="violates PodSecurity"):
        cluster.client.create(Pod(metadata=ObjectMeta(name="evil", namespace=namespace), spec=PodSpec(containers=[privileged])))


def test_a_thousand_deployments_of_one_tenant_hold_up_nobody_else(cluster: ClusterPlatform, tmp_path: Path) -> None:
    platform = cluster.platform
    for name in ("loud", "quiet"):
        (tmp_path / name).mkdir()
        platform.deploy(says(tmp_path / name, OLD), name)
    path = f"/v1/deployments/{platform.latest('loud')['id']}/redeploy"
    headers = {"Authorization": f"Bearer {platform.token}"}
    answers: list[int] = []
    stop = threading.Event()

    def ask(client: httpx2.Client) -> None:
        if not stop.is_set():
            answers.append(client.post(path, json={}).status_code)

    url = f"http://localhost:{platform.port}"
    with httpx2.Client(base_url=url, headers=headers, timeout=60) as client, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, client) for _ in range(_BURST)]
        began = time.monotonic()
        (tmp_path / "quiet" / "app.py").write_text((tmp_path / "quiet" / "app.py").read_text() + "# again\n")
        platform.deploy(tmp_path / "quiet", "quiet")
        took_s = time.monotonic() - began
        for one in asked:
            one.result()
    assert took_s < 120
    assert len(answers) == _BURST
    accepted = [code for code in answers if code < 300]
    # Too many, or what it asks for has been replaced too often to be kept.
    assert {code for code in answers if code >= 300} <= {409, 429}
    assert accepted

    def at_rest() -> bool:
        return platform.latest("loud")["state"] in ("production", "failed")

    wait_until(at_rest, timeout_s=300)
    assert platform.page("loud") == OLD
    assert len(cluster.pods("loud")) <= 50
