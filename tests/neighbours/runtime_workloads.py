"""Workloads of the runtime as values, for tests of its decisions."""

from __future__ import annotations

from dataclasses import replace

from shipoff.runtime.domain import Artifact, Policy, Process, Workload

POLICY = Policy()
NOW = 1000.0


def workload(**changes: object) -> Workload:
    base = Workload(
        deployment_id="d",
        project_id="p",
        project_name="demo",
        team_id="t",
        environment="production",
        artifact=Artifact(2, "k", "sha256:0", 1),
        processes=(Process("web", ("serve",)),),
        app_root=".",
        variables=b"",
        replicas=1,
        cpu_millis=0,
        memory_bytes=1,
        health_path="",
        ready_timeout_s=60,
        ready_deadline=NOW + 60,
        last_incarnation=1,
    )
    return replace(base, **changes)  # type: ignore[arg-type]  # a test's own fields
