"""From the operator's settings to what the manifests depend on."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from pydantic import ValidationError

from shipoff.runtime.adapters.kubernetes import cluster_of
from shipoff.runtime.settings import KubernetesSettings

SET = {
    "platform": "shipoff-two",
    "ingress_class": "nginx",
    "ingress_namespace": "ingress-nginx",
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
    assert set(SET) == KubernetesSettings.model_fields.keys() - {"way_back_s", "mode"}


@pytest.mark.parametrize("grace_s", [0.0, 0.2])
def test_an_instance_has_at_least_a_second_to_end(grace_s: float) -> None:
    assert cluster_of(KubernetesSettings(), grace_s=grace_s).grace_s == 1


@pytest.mark.parametrize("name", ["", "Two", "a b", "-", "a" * 64])
def test_a_platform_s_name_is_a_dns_label(name: str) -> None:
    with pytest.raises(ValidationError):
        KubernetesSettings(platform=name)
