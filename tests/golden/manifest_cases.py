"""The workloads whose manifests are kept: `python tests/golden/manifest_cases.py` writes them anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import yaml

from shipoff.runtime.adapters.kubernetes import cluster_of
from shipoff.runtime.domain import Artifact, Process, Workload
from shipoff.runtime.manifests import (
    ClusterSettings,
    Configured,
    Object,
    Release,
    project_objects,
    release_objects,
    route_objects,
)
from shipoff.runtime.manifests.release_command import release_command_pod
from shipoff.runtime.settings import KubernetesSettings

MANIFESTS = Path(__file__).with_name("manifests")
_ID = "019ab000-0000-7000-8000-00000000000"

WEB = Workload(
    deployment_id=f"{_ID}1",
    project_id=f"{_ID}a",
    project_name="shop",
    team_id=f"{_ID}b",
    environment="production",
    artifact=Artifact(3, "registry.example/shop@sha256:" + "ab" * 32, "sha256:" + "ab" * 32, 1),
    processes=(Process("web", ("gunicorn", "app:app", "--bind", "$HOST:${PORT}")),),
    app_root=".",
    variables=b"",
    replicas=2,
    cpu_millis=0,
    memory_bytes=256 << 20,
    health_path="/healthz",
    ready_timeout_s=60.0,
    ready_deadline=1060.0,
    hosts=("shop.example", "www.shop.example"),
)
# What a user wrote is hostile here, and only ever a value.
HOSTILE = replace(
    WEB,
    project_name="shop: {evil}",
    environment="feature/Ünïcode\n---\nkind: Pod",
    processes=(Process("web", ("sh", "-c", "echo $(SECRET) ${HOME} $PORT\n---")), Process("Mail_", ("mail",))),
    health_path="/{{ .Values.x }}",
    hosts=(),
    port=3000,
)
# Nothing of it is set.
CLUSTER = cluster_of(KubernetesSettings(), grace_s=30)
CASES: dict[str, tuple[Workload, Configured, ClusterSettings]] = {
    "web": (WEB, Configured({"DATABASE_URL": "postgres://db"}, "v1"), CLUSTER),
    "web-and-worker-with-tls": (
        replace(WEB, processes=(*WEB.processes, Process("worker", ("celery", "worker"))), replicas=1, cpu_millis=500),
        Configured({}, "v2"),
        replace(
            CLUSTER, ingress_class="nginx", ingress_namespace="ingress-nginx", cluster_issuer="letsencrypt", max_replicas=5
        ),
    ),
    "worker": (replace(WEB, processes=(Process("worker", ("work",)),), hosts=()), Configured({}, "v3"), CLUSTER),
    "image-alone": (replace(WEB, processes=(Process("web", ()),), health_path="", port=80), Configured(), CLUSTER),
    "release-command": (
        replace(WEB, processes=(*WEB.processes, Process("release", ("manage", "migrate"))), release_timeout_s=900.0, hosts=()),
        Configured({}, "v5"),
        CLUSTER,
    ),
    "hostile": (HOSTILE, Configured({"A": "'\"\n$(B) {{ x }}"}, "v4"), replace(CLUSTER, read_only_root=False)),
}


def objects(name: str) -> list[Object]:
    """Everything of a case, in the order in which it is applied."""
    workload, configured, cluster = CASES[name]
    release = Release(workload, configured, cluster)
    command = [release_command_pod(release)] if workload.releasing else []
    around = project_objects(workload, release.names, cluster)
    return [*around, *release_objects(release), *command, *route_objects(release)]


def rendered(name: str) -> str:
    """The same as YAML, keys sorted."""
    return yaml.safe_dump_all([one.to_dict() for one in objects(name)], sort_keys=True, width=100)


if __name__ == "__main__":
    for stale in MANIFESTS.glob("*.yaml"):
        stale.unlink()
    for case in CASES:
        (MANIFESTS / f"{case}.yaml").write_text(rendered(case))
