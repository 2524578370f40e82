"""What a Job and its pod say of the builder: pure."""

from __future__ import annotations

from lightkube.models.core_v1 import ContainerStateTerminated, ContainerStatus
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Pod

from shipoff.build.domain import Cause, End, Sight

_OVER = ("Complete", "Failed", "FailureTarget", "SuccessCriteriaMet")
_PULLS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
# Kubernetes' own words for "it is on its way".
_ON_ITS_WAY = ("ContainerCreating", "PodInitializing", "")
_NO_POD = "no pod was made of its Job: is the quota of the builds' namespace used up?"
_OUT_OF_MEMORY = "the build was killed because it needed more memory than it may use"
_LATE = "the build was not done in the time that its Job may take"
_SIGNALLED = 128


def sight_of(job: Job | None, pod: Pod | None, *, left: bool, running_s: float) -> Sight:
    """What is to be seen of the builder.

    `left`: the pod is not there any more, and this is what it was at last; `running_s`: how long its container was seen to run.
    """
    if job is None or _over(job) is not None or left or (pod is not None and _is_over(pod)):
        return Sight(alive=False, end=_end(job, pod))
    if job.spec is not None and job.spec.suspend:
        return Sight(alive=False, end=_lost("the platform stopped while it was being started"))
    if pod is None:
        return Sight(alive=True, waiting=True, obstacle=_NO_POD)
    if not has_begun(pod):
        return Sight(alive=True, waiting=True, obstacle=_obstacle(pod))
    return Sight(alive=True, running_s=running_s)


def last_words(pod: Pod) -> str:
    """The end of what the builder wrote, where it is over."""
    ended = _terminated(pod)
    return (ended.message or "") if ended else ""


def has_begun(pod: Pod) -> bool:
    """Whether its container runs, or has run."""
    container = _container(pod)
    state = container.state if container else None
    return bool(state and (state.running or state.terminated))


def _lost(why: str) -> End:
    return End(Cause.BUILDER_LOST, f"the builder was lost: {why}")


def _end(job: Job | None, pod: Pod | None) -> End | None:
    """How it ended; None: by itself, and what it had to say it has said."""
    condition = _over(job) if job is not None else None
    if condition is not None and condition[1] == "DeadlineExceeded":
        return End(Cause.TIMEOUT, _LATE)
    ended = _terminated(pod) if pod is not None else None
    if ended is not None and ended.reason == "OOMKilled":
        return End(Cause.OUT_OF_MEMORY, _OUT_OF_MEMORY)
    if pod is not None and pod.status is not None and pod.status.reason:
        return _evicted(pod.status.reason, pod.status.message or "")
    if pod is not None and pod.metadata and pod.metadata.deletionTimestamp:
        return _lost("its pod was told to end from outside")
    if ended is not None:
        return None if ended.exitCode == 0 else _lost(_exit(ended))
    if condition is not None and condition[0] == "Complete":
        return None
    return _lost("its Job was deleted" if job is None else "its pod was deleted")


def _evicted(reason: str, message: str) -> End:
    """For what it used itself, or for the node's want.

    https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/
    """
    text = f"{reason.lower()}: {message}".rstrip(": ")
    if reason == "Evicted" and "exceeds the" in message:
        return End(Cause.DISK, f"the build filled more disk than it may use ({text})")
    return _lost(f"its pod was {text}")


def _exit(ended: ContainerStateTerminated) -> str:
    if ended.exitCode > _SIGNALLED:
        return f"it was killed by signal {ended.exitCode - _SIGNALLED}"
    return f"it ended with exit code {ended.exitCode}" + (f" ({ended.reason})" if ended.reason else "")


def _over(job: Job) -> tuple[str, str] | None:
    """The condition that ended it, and its reason."""
    conditions = (job.status.conditions or ()) if job.status else ()
    found = [(one.type, one.reason or "") for one in conditions if one.type in _OVER and one.status == "True"]
    return found[0] if found else None


def _is_over(pod: Pod) -> bool:
    return bool(pod.status and pod.status.phase in ("Succeeded", "Failed")) or _terminated(pod) is not None


def _container(pod: Pod) -> ContainerStatus | None:
    return next(iter(pod.status.containerStatuses or ()), None) if pod.status else None


def _terminated(pod: Pod) -> ContainerStateTerminated | None:
    container = _container(pod)
    return container.state.terminated if container and container.state else None


def _obstacle(pod: Pod) -> str:
    conditions = {one.type: one for one in (pod.status.conditions or ())} if pod.status else {}
    scheduled = conditions.get("PodScheduled")
    if scheduled is not None and scheduled.status == "False" and scheduled.reason == "Unschedulable":
        return f"no node has room for it: {scheduled.message or ''}".rstrip(": ")
    container = _container(pod)
    waiting = container.state.waiting if container and container.state else None
    reason, message = (waiting.reason or "", waiting.message or "") if waiting else ("", "")
    if reason in _PULLS:
        return f"the builder's image cannot be pulled: {message or reason}"
    return "" if reason in _ON_ITS_WAY else f"its container cannot be started: {message or reason}"
