"""From the operator's settings to what the manifests depend on."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from golden.manifest_cases import CLUSTER, WEB
from pydantic import ValidationError

from shipoff.runtime.adapters.kubernetes import cluster_of
from shipoff.runtime.manifests import Configured, Release, reached_at
from shipoff.runtime.settings import KubernetesSettings

SET = {
    "platform": "shipoff-two",
    "ingress_class": "nginx",
    "ingress_namespace": "ingress-nginx",
    "ingress_address": "192.0.2.7:8000",
    "cluster_issuer": "letsencrypt",
    "user_id": 20001,
    "read_only_root": False,
    "max_replicas": 7,
    "quota_pods": 9,
    "quota_cpu_millis": 900,
    "quota_memory_bytes": 128 << 20,
    "cpu_millis": 11,
    "most_cpu_millis": 22,
}


def test_what_the_operator_sets_is_what_the_manifests_are_made_with(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SET.items():
        monkeypatch.setenv(f"SHIPOFF_KUBERNETES_{name.upper()}", str(value))
    made = asdict(cluster_of(KubernetesSettings(), grace_s=12.4))
    assert made == {**SET, "grace_s": 12, "drain_s": 2}
    # Nothing is set that this test forgets.
    assert set(SET) == KubernetesSettings.model_fields.keys() - {"way_back_s", "log_followers", "mode"}


@pytest.mark.parametrize("grace_s", [0.0, 0.2])
def test_an_instance_has_at_least_a_second_to_end(grace_s: float) -> None:
    assert cluster_of(KubernetesSettings(), grace_s=grace_s).grace_s == 1


@pytest.mark.parametrize(
    ("changes", "reached"),
    [
        ({"ingress_address": "192.0.2.7:8000"}, ("192.0.2.7", 8000)),
        ({"ingress_address": "[2001:db8::1]:80"}, ("2001:db8::1", 80)),
        # It knows nothing of what has no Ingress.
        ({"ingress_address": "192.0.2.7:8000", "ingress_class": ""}, None),
        ({}, None),
    ],
)
def test_the_edge_asks_the_ingress_where_there_is_one(changes: dict[str, str], reached: tuple[str, int] | None) -> None:
    release = Release(WEB, Configured(), replace(CLUSTER, **changes))  # type: ignore[arg-type]  # a test's own fields
    assert reached_at(release) == (reached or (f"production.{release.names.namespace}.svc", 80))


@pytest.mark.parametrize("name", ["", "Two", "a b", "-", "a" * 64])
def test_a_platform_s_name_is_a_dns_label(name: str) -> None:
    with pytest.raises(ValidationError):
        KubernetesSettings(platform=name)
