"""The builds whose manifests are kept: `python tests/golden/job_cases.py` writes them anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from shipoff.build.adapters.kubernetes import cluster_of
from shipoff.build.domain import Order, Ref
from shipoff.build.manifests import BuildCluster, job, namespace_objects, secret
from shipoff.build.settings import BuildSettings, JobSettings

JOBS = Path(__file__).with_name("jobs")
_ID = "019ab000-0000-7000-8000-00000000000"
REF = Ref(f"{_ID}1", 2)
ORDER = Order(f"{_ID}a", cpu_millis=1500, memory_bytes=(1 << 30) + 1, timeout_s=900)
IMAGE = f"registry.example/shipoff@sha256:{'ab' * 32}"


def cluster(*, buildkit: str = "", **given: Any) -> BuildCluster:
    """The operator's choices; nothing of them is set but what has no default."""
    images = {"executor": "buildkit", "registry": "registry.example/apps", "buildkit_address": buildkit} if buildkit else {}
    listen = {"builders": "kubernetes", "builder_listen": "0.0.0.0:9090"}
    settings = BuildSettings(_env_file=None, **listen, **images)  # type: ignore[call-arg,arg-type]  # pydantic-settings' own
    values = {"image": IMAGE, "address": "build.shipoff.svc:9090", **given}
    return cluster_of(settings, JobSettings(_env_file=None, **values))  # type: ignore[call-arg]  # the same


CASES: dict[str, tuple[Order, BuildCluster]] = {
    "plain": (ORDER, cluster()),
    "nothing-reserved": (replace(ORDER, cpu_millis=0, memory_bytes=0), cluster(outside_ports="", most=3)),
    "everything-chosen": (
        ORDER,
        cluster(
            platform="staging",
            namespace="staging-builds",
            pull_secret="pull",
            address="192.0.2.7:9090",
            cache_claim="caches",
            user_id=20002,
            runtime_class="gvisor",
            node_selector="pool=builds,arch=amd64",
            begin_s=60,
            keep_s=30,
            allow_networks="10.1.2.0/24,fd00:1::/64",
            deny_networks="198.51.100.7/32,2001:db8::/32",
            outside_ports="443",
            budget_cpu_millis=8000,
            budget_memory_bytes=16 << 30,
        ),
    ),
    "images": (
        ORDER,
        cluster(
            buildkit="tcp://buildkitd.buildkit.svc.cluster.local:1234",
            address="build.example.com:9090",
            registry_secret="registry",
            buildkit_tls_secret="buildkit",
        ),
    ),
}


def objects(name: str) -> list[Any]:
    """Everything of a case, in the order in which it is made."""
    order, chosen = CASES[name]
    told = secret(REF, order, chosen, job_uid=f"{_ID}f", assignment='{"token": "…"}')
    return [*namespace_objects(chosen), job(REF, order, chosen), told]


def rendered(name: str) -> str:
    """The same as YAML, keys sorted."""
    return yaml.safe_dump_all([one.to_dict() for one in objects(name)], sort_keys=True, width=100)


if __name__ == "__main__":
    JOBS.mkdir(exist_ok=True)
    for stale in JOBS.glob("*.yaml"):
        stale.unlink()
    for case in CASES:
        (JOBS / f"{case}.yaml").write_text(rendered(case))
