"""Apps on a Kubernetes cluster: from artifact to PRODUCTION beside kubectl, many at once, and an idle look at a thousand.

The idle look needs no cluster. The others run the whole platform on that of KUBECONFIG, with kubectl on PATH, and an image
built and pushed as `make test-cluster` does it (SHIPOFF_BUILD_REGISTRY and its neighbours).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from _measure import Line, Round, compare, record, show
from golden.manifest_cases import CLUSTER, WEB
from lightkube.models.core_v1 import PodCondition, PodStatus
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.core_v1 import Pod

from shipoff.common.ids import new_id
from shipoff.common.sealing import Sealer
from shipoff.runtime.adapters.kubernetes.desired import Wishes
from shipoff.runtime.adapters.kubernetes.driver import KubernetesDriver
from shipoff.runtime.domain import Instance, InstanceKey, InstanceState, Phase, Policy, Workload
from shipoff.runtime.transitions import decide

_WORKLOADS = 1000
_IDLE_GOAL_S, _ADDED_GOAL_S = 2.0, 1.5
_WAIT_S = 600.0


class _NoApi:
    """Whatever is asked of it is one request too many."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"an idle look asked the API to {name}")


async def idle_pass() -> tuple[float, float]:
    """Seconds, and CPU seconds, that a look at a thousand workloads takes when nothing is to be done and nothing is asked."""
    sealer = Sealer(base64.b64encode(b"k" * 32).decode())
    sealed = sealer.seal_variables(sealer.new_data_key(), {"A": "1"}, {}).SerializeToString()
    wishes = Wishes(sealer, CLUSTER)
    driver = KubernetesDriver(_NoApi(), wishes, clock=time.time, on_change=lambda _: None)  # type: ignore[arg-type]  # none is wanted
    driver._mirror._unread.clear()
    stored = [_settled(driver, wishes, sealed) for _ in range(_WORKLOADS)]
    # The first look works out what is wanted, once for each change of a workload.
    for _ in range(2):
        began, cpu, now = time.perf_counter(), time.process_time(), time.time()
        for workload, instances in stored:
            observed = await driver.observe(workload, instances, probe=[one.key for one in instances])
            made = decide(workload, instances, observed, now=now, policy=Policy())
            assert not made.actions, made.actions
            assert not made.emissions, made.emissions
        took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    return took_s, cpu_s


def _settled(driver: KubernetesDriver, wishes: Wishes, sealed: bytes) -> tuple[Workload, tuple[Instance, ...]]:
    """A workload that runs, with everything of it in the mirror."""
    workload = replace(
        WEB, deployment_id=new_id(), project_id=new_id(), variables=sealed, replicas=1, phase=Phase.READY, was_ready=True
    )
    names = wishes.of(workload).names
    for circle in wishes.objects(workload):
        for one in circle:
            assert one.metadata is not None
            one.metadata.resourceVersion = "1"
            driver._mirror.put(one)
            if isinstance(one, Deployment) and one.spec and one.spec.template.metadata:
                labels = one.spec.template.metadata.labels
    ready = PodStatus(phase="Running", conditions=[PodCondition(type="Ready", status="True")])
    pod = ObjectMeta(name="web", namespace=names.namespace, uid=new_id(), labels=labels, resourceVersion="1")
    driver._mirror.put(Pod(metadata=pod, status=ready))
    key = InstanceKey(workload.deployment_id, "web", 0, 1)
    due = time.time() + 3600
    instance = Instance(
        key, InstanceState.READY, pid=1, process_started=f"{pod.uid}/0", due_at=due, started_at=due - 7200, ready_at=due - 7200
    )
    workload = replace(workload, endpoints=(instance.endpoint,), revision=1, last_incarnation=1)
    return workload, (instance,)


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _took_s(deployment: dict[str, Any]) -> float:
    """From its acceptance to PRODUCTION, by the platform's clock."""
    live = next(one for one in deployment["transitions"] if one["to"] == "production")
    return _moment(live["time"]) - _moment(deployment["created_at"])


class Beside:
    """The platform's releases, and kubectl with the same manifests."""

    def __init__(self, made: Any, project: str) -> None:
        self.made = made
        self.project = project
        self.namespace = made.namespace(project)
        self.kubectl = shutil.which("kubectl") or sys.exit("kubectl is not on PATH")

    def ours(self, number: int) -> float:
        """A release with another variable, which needs no build; seconds until it is in PRODUCTION."""
        self.made.platform.cli("env", "set", f"ROUND={number}", "--project", self.project)
        self.made.platform.cli("redeploy", "--current-env", "--project", self.project, "--json")
        return _took_s(self.made.platform.latest(self.project))

    def peer(self, number: int) -> float:
        """The newest release's own objects under other names: apply, wait for the roll-out, switch the Service."""
        release, route = self._copied(number)
        began = time.perf_counter()
        self._run("apply", "--validate=false", "--server-side", "-f", "-", given=release)
        self._run("rollout", "status", f"deployment/copy-{number}", "--timeout=300s")
        self._run("apply", "--validate=false", "--server-side", "-f", "-", given=route)
        took_s = time.perf_counter() - began
        self._run("delete", "--wait=false", "deployment,secret,configmap,service", "-l", f"copy=c{number}")
        return took_s

    def _copied(self, number: int) -> tuple[str, str]:
        found = json.loads(self._run("get", "deployment,secret,configmap,service", "-o", "json"))["items"]
        deployments = sorted(
            (one for one in found if one["kind"] == "Deployment"), key=lambda one: one["metadata"]["creationTimestamp"]
        )
        newest = deployments[-1]
        sources = newest["spec"]["template"]["spec"]["containers"][0]["envFrom"]
        used = {one[kind]["name"] for one in sources for kind in one}
        kept = [newest, *(one for one in found if one["metadata"]["name"] in used)]
        service = next(one for one in found if one["kind"] == "Service")
        return tuple(  # type: ignore[return-value]  # of two
            json.dumps({"apiVersion": "v1", "kind": "List", "items": [self._renamed(one, number) for one in part]})
            for part in (kept, [service])
        )

    def _renamed(self, one: dict[str, Any], number: int) -> dict[str, Any]:
        name = f"copy-{number}"
        copy = {key: value for key, value in json.loads(json.dumps(one)).items() if key != "status"}
        copy["metadata"] = {"name": name, "labels": {"copy": f"c{number}"}}
        spec = copy.get("spec", {})
        if one["kind"] == "Deployment":
            spec["selector"] = {"matchLabels": {"copy": f"c{number}"}}
            spec["template"]["metadata"] = {"labels": {"copy": f"c{number}"}}
            for source in spec["template"]["spec"]["containers"][0]["envFrom"]:
                for kind in source:
                    source[kind]["name"] = name
        if one["kind"] == "Service":
            copy["spec"] = {"selector": {"copy": f"c{number}"}, "ports": spec["ports"]}
        return copy

    def _run(self, *words: str, given: str = "") -> str:
        argv = [self.kubectl, "-n", self.namespace, *words]
        return subprocess.run(argv, input=given, capture_output=True, text=True, check=True).stdout


def at_once(made: Any, project: str, count: int) -> dict[str, float]:
    """Promotes the project's release to so many environments at the same time; all of them have to come into PRODUCTION."""
    origin = made.platform.latest(project)["id"]

    def promote(number: int) -> str:
        body = {"environment": f"many-{number}"}
        answer = made.platform.api("POST", f"/v1/deployments/{origin}/promote", json=body)
        answer.raise_for_status()
        return str(answer.json()["id"])

    began = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(promote, range(count)))
    waiting, took = set(ids), {}
    while waiting and time.perf_counter() - began < _WAIT_S:
        for one in sorted(waiting):
            deployment = made.platform.api("GET", f"/v1/deployments/{one}").json()
            assert deployment["state"] not in ("failed", "inactive"), deployment["reason"]
            if deployment["state"] == "production":
                took[one] = _took_s(deployment)
                waiting.discard(one)
    assert not waiting, f"{len(waiting)} of {count} are stuck"
    return {"all_s": time.perf_counter() - began, "median_s": statistics.median(took.values()), "longest_s": max(took.values())}


def on_the_cluster(options: argparse.Namespace) -> tuple[list[Round], dict[str, float]]:
    """Both figures that need one."""
    from neighbours.kube_platform import cluster_platform, says

    # Room for many on a small node.
    small = {"SHIPOFF_RUNTIME_DEFAULT_MEMORY_BYTES": str(64 << 20)}
    with cluster_platform(**small) as made, tempfile.TemporaryDirectory() as folder:
        made.platform.deploy(says(Path(folder), "hello"), "measured")
        beside = Beside(made, "measured")
        beside.ours(0), beside.peer(0)
        rounds = [Round(beside.ours(number), beside.peer(number)) for number in range(1, options.rounds + 1)]
        print("rounds (ours, kubectl):", ", ".join(f"{one.ours:.2f} {one.peer:.2f}" for one in rounds), flush=True)
        return rounds, at_once(made, "measured", options.at_once)


def main(options: argparse.Namespace) -> None:
    """The whole figure, as far as it can be had here."""
    idle_s, cpu_s = asyncio.run(idle_pass())
    took = f"{idle_s:.2f} s ({cpu_s:.2f} s of CPU)"
    print(f"an idle look at {_WORKLOADS} workloads: {took}, no request (goal: {_IDLE_GOAL_S:g} s at most)")
    if not os.environ.get("KUBECONFIG") or not os.environ.get("SHIPOFF_BUILD_REGISTRY"):
        print("not run: artifact to PRODUCTION, many at once. They need KUBECONFIG and SHIPOFF_BUILD_REGISTRY.")
        return
    rounds, many = on_the_cluster(options)
    found = compare(rounds)
    goal = f"+ {_ADDED_GOAL_S:g} s"
    met = found.ours - found.peer <= _ADDED_GOAL_S
    show("Artifact to PRODUCTION beside kubectl", "kubectl", [Line("redeploy", found, "s", goal, met)])
    print(f"{options.at_once} deployments at once, all in PRODUCTION: " + ", ".join(f"{k} {v:.1f}" for k, v in many.items()))
    comparisons = {"redeploy": found}
    added = found.ours - found.peer
    more: dict[str, Any] = {"added_s": added, "idle_s": idle_s, "at_once": {"count": options.at_once, **many}}
    print(record("cluster", comparisons, unit={"redeploy": "s"}, options=vars(options), **more))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--at-once", type=int, default=int(os.environ.get("SHIPOFF_BENCH_AT_ONCE", "40")))
    main(parser.parse_args())
