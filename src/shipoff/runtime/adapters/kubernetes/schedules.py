"""What became of an environment's CronJobs: `ports.Schedules` on a cluster, asked for when somebody wants to know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from lightkube.resources.batch_v1 import CronJob, Job

from shipoff.runtime.adapters.kubernetes.api import Api
from shipoff.runtime.adapters.kubernetes.desired import Wishes
from shipoff.runtime.domain import Workload
from shipoff.runtime.manifests.marks import ENVIRONMENT, SCHEDULE
from shipoff.runtime.manifests.names import dns_label
from shipoff.runtime.schedules import RUNNING, SUCCEEDED, ScheduleRun


class KubernetesSchedules:
    """`ports.Schedules` by the Jobs that CronJobs made; a CronJob keeps the last of each kind."""

    def __init__(self, api: Api, wishes: Wishes) -> None:
        self._api = api
        self._wishes = wishes

    async def runs(self, workload: Workload) -> Mapping[str, ScheduleRun]:
        namespace = self._wishes.release(workload).names.namespace
        labels = {ENVIRONMENT: dns_label(workload.environment)}
        jobs = await self._api.of_namespace(Job, namespace, labels)
        crons = await self._api.of_namespace(CronJob, namespace, labels)
        return {name: _run(one, jobs) for one in crons if (name := _schedule(one))}


def _schedule(obj: Any) -> str:
    return str((obj.metadata.labels or {}).get(SCHEDULE, ""))


def _run(cron: Any, jobs: Iterable[Any]) -> ScheduleRun:
    own = [one for one in jobs if _schedule(one) == _schedule(cron)]
    last = max(own, key=lambda one: _seconds(one.metadata.creationTimestamp), default=None)
    if last is None:
        started = _seconds(cron.status.lastScheduleTime) if cron.status else 0.0
        return ScheduleRun(started_at=started)
    return ScheduleRun(started_at=_seconds(last.metadata.creationTimestamp), outcome=_outcome(last))


def _outcome(job: Any) -> str:
    """https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/job-v1/#JobStatus"""
    for condition in (job.status.conditions or ()) if job.status else ():
        if condition.status == "True" and condition.type == "Complete":
            return SUCCEEDED
        if condition.status == "True" and condition.type == "Failed":
            return f"failed: {condition.message or condition.reason or 'its command failed'}"
    return RUNNING


def _seconds(when: datetime | None) -> float:
    return when.timestamp() if when is not None else 0.0
