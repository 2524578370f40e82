"""What became of a release command's pod."""

from __future__ import annotations

from lightkube.resources.core_v1 import Pod

from shipoff.runtime.adapters.kubernetes.api import Api
from shipoff.runtime.adapters.kubernetes.desired import Desired
from shipoff.runtime.adapters.kubernetes.mirror import Mirror
from shipoff.runtime.adapters.kubernetes.pods import PodRun, read
from shipoff.runtime.domain import Instance, Observation, Workload
from shipoff.runtime.manifests.release_command import release_command_name

_LINES = 5
# Pods have no process id that means anything here.
_RUNS = 1


def run_of(workload: Workload, desired: Desired, mirror: Mirror) -> PodRun | None:
    """The pod in a few words, unless it is gone or on its way out."""
    pod = mirror.get(Pod, desired.names.namespace, release_command_name(workload, desired.names))
    return None if pod is None else read(pod, workload.memory_bytes)


async def look(workload: Workload, desired: Desired, instance: Instance, *, mirror: Mirror, api: Api) -> Observation | None:
    """What was seen of the run; None: it was never begun."""
    run = run_of(workload, desired, mirror)
    if run is None:
        return Observation(False, lost=True) if instance.process_started else None
    if not run.over:
        return Observation(True, pid=_RUNS, process_started=run.mark)
    lines = await api.last_lines(run.name, desired.names.namespace, previous=False, count=_LINES)
    return Observation(False, exit=run.exit or "it ended", well=run.well, last_lines=lines)
