"""Schedules on a cluster: CronJobs of the release that requests are led to, and of no other."""

from __future__ import annotations

from lightkube.resources.batch_v1 import CronJob
from neighbours.kube_runtime import Ground, Runtime, until

from shipoff.runtime.adapters.kubernetes.api import Api
from shipoff.runtime.adapters.kubernetes.schedules import KubernetesSchedules
from shipoff.runtime.domain import Process, Workload
from shipoff.runtime.schedules import Schedule

BACKUP = Schedule("backup", "0 3 * * *", ("sh", "-c", "echo backed up"))
REPORT = Schedule("report", "30 4 * * 1", ("sh", "-c", "echo reported"))


async def cron_jobs(ground: Ground, workload: Workload) -> dict[str, CronJob]:
    namespace = ground.names[workload.deployment_id].namespace
    found = [one async for one in ground.client.list(CronJob, namespace=namespace)]
    return {one.spec.schedule: one for one in found if one.metadata.deletionTimestamp is None}


async def test_the_schedules_are_those_of_the_release_that_serves(ground: Ground, runtime: Runtime) -> None:
    first = ground.workload(schedules=(BACKUP, REPORT))
    await ground.ready(runtime, first)
    found = await cron_jobs(ground, first)
    assert set(found) == {BACKUP.cron, REPORT.cron}
    spec = found[BACKUP.cron].spec
    assert (spec.concurrencyPolicy, spec.timeZone, spec.suspend) == ("Forbid", "Etc/UTC", False)
    pod = spec.jobTemplate.spec.template.spec
    assert (pod.restartPolicy, pod.automountServiceAccountToken, spec.jobTemplate.spec.backoffLimit) == ("Never", False, 0)
    assert pod.containers[0].command == list(BACKUP.argv)

    second = ground.workload(schedules=(BACKUP,), variables={"A": "2"})
    await ground.ready(runtime, second)

    async def left() -> bool:
        return set(await cron_jobs(ground, second)) == {BACKUP.cron}

    # Though the first release stays as the way back.
    await until(left, "what an earlier release had scheduled is still there")
    reported = KubernetesSchedules(Api(ground.client, platform=ground.cluster.platform), runtime.wishes)
    runs = await reported.runs(second)
    assert runs["backup"].outcome == ""


async def test_paused_schedules_rest_and_a_lost_one_comes_back(ground: Ground, runtime: Runtime) -> None:
    worker = ground.workload(processes=(Process("worker", ("sleep", "600")),), schedules=(BACKUP,), hosts=())
    await ground.ready(runtime, worker)
    found = await cron_jobs(ground, worker)
    [one] = found.values()
    await ground.client.delete(CronJob, one.metadata.name, namespace=one.metadata.namespace)

    async def back() -> bool:
        return bool(await cron_jobs(ground, worker))

    await until(back, "it did not come back")
    await runtime.handlers.pause(worker.deployment_id, paused=True)

    async def rests() -> bool:
        return all(one.spec.suspend for one in (await cron_jobs(ground, worker)).values())

    await until(rests, "it is not suspended")
    await ground.stopped(runtime, worker)
