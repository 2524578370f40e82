"""The CronJobs of an environment: what the release that requests are led to has scheduled."""

from __future__ import annotations

from lightkube.models.batch_v1 import CronJobSpec, JobSpec, JobTemplateSpec
from lightkube.models.core_v1 import PodTemplateSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.batch_v1 import CronJob

from shipoff.runtime.domain import Process, Workload
from shipoff.runtime.manifests import marks
from shipoff.runtime.manifests.names import digest_of
from shipoff.runtime.manifests.release import Release, pod_spec
from shipoff.runtime.schedules import Schedule

# No process of a plan that serves is called so: there are no probes and no port.
_PROCESS = "schedule"
_LIMIT_S = 3600
# A time that was missed for longer, the cluster's controller being away, is left out.
_STARTS_WITHIN_S = 3600


def schedule_name(workload: Workload, schedule: str) -> str:
    """Of the CronJob. Their names have 52 characters at most, an environment's and a schedule's together may have more."""
    return f"schedule-{digest_of(workload.environment, schedule)}"


def schedule_objects(release: Release) -> list[CronJob]:
    """One for each schedule; while the workload is paused they are suspended."""
    return [_cron_job(release, one) for one in release.workload.schedules]


def _cron_job(release: Release, schedule: Schedule) -> CronJob:
    labels = marks.owner_labels(release.workload, release.cluster.platform)
    mark = {marks.SCHEDULE: schedule.name}
    pod = pod_spec(release, Process(_PROCESS, schedule.argv))
    pod.restartPolicy = "Never"
    template = PodTemplateSpec(metadata=ObjectMeta(labels={**labels, **mark}), spec=pod)
    job = JobSpec(template=template, backoffLimit=0, activeDeadlineSeconds=_LIMIT_S)
    return CronJob(
        metadata=ObjectMeta(
            name=schedule_name(release.workload, schedule.name), namespace=release.names.namespace, labels={**labels, **mark}
        ),
        spec=CronJobSpec(
            schedule=schedule.cron,
            timeZone="Etc/UTC",
            concurrencyPolicy="Forbid",
            startingDeadlineSeconds=_STARTS_WITHIN_S,
            successfulJobsHistoryLimit=1,
            failedJobsHistoryLimit=1,
            suspend=release.workload.paused,
            jobTemplate=JobTemplateSpec(metadata=ObjectMeta(labels={**labels, **mark}), spec=job),
        ),
    )
