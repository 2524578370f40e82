"""What to do about an attempt: pure, so that every case is a row of a test."""

from __future__ import annotations

from shipoff.build.domain import Attempt, Cause, CleanUp, End, Fail, Instruction, Launch, Rules, Sight, State, Stop, Terminate

_LOST = "the builder was lost: its process ended without an outcome"
_SILENT = "the builder was lost: nothing was heard of it for too long"
_NOT_STARTED = (
    "no builder could be started: is the machine's disk or its process table full, or the cluster away? "
    "The platform's log has the reason"
)
_NOT_BEGUN = "the builder could not begin: {obstacle}. Free some room or mend it, then deploy again"
_UNKNOWN = "its pod was not started in time, and the cluster does not say why"
_LATE = "the build was not done in the time it may take"


def decide(attempt: Attempt, *, builder: Sight, observed_s: float, rules: Rules) -> tuple[Instruction, ...]:
    """The instructions, in order. `observed_s`: how long this service has been able to hear builders.

    Processes are stopped before the attempt is failed: whoever hears of it may give its share of the machine away.
    """
    if attempt.state is not State.RUNNING:
        if builder.alive and attempt.ended_s < rules.leave_s:
            return ()
        return (Stop(attempt.ref, attempt.process), CleanUp(attempt.ref))
    if attempt.cancelling_s is not None:
        return _cancelling(attempt, alive=builder.alive, rules=rules)
    if attempt.process is None:
        late = attempt.unseen_s > rules.launch_s and observed_s > rules.launch_s
        return _end(attempt, End(Cause.PLATFORM, _NOT_STARTED)) if late else (Launch(attempt.ref),)
    ended = _ended(attempt, builder, observed_s, rules)
    return _end(attempt, ended) if ended else ()


def _ended(attempt: Attempt, builder: Sight, observed_s: float, rules: Rules) -> End | None:
    """Why the attempt of a builder that was started cannot go on; None: it can."""
    if not builder.alive:
        return builder.end or End(Cause.BUILDER_LOST, _LOST)
    silent_s = min(attempt.unseen_s, observed_s)
    if builder.waiting:
        reason = _NOT_BEGUN.format(obstacle=builder.obstacle or _UNKNOWN)
        return End(Cause.PLATFORM, reason) if silent_s > rules.begin_s else None
    if attempt.remaining_s < -rules.overtime_s:
        return End(Cause.TIMEOUT, _LATE)
    if min(silent_s, builder.running_s) > rules.lease_s:
        return End(Cause.BUILDER_LOST, _SILENT)
    return None


def _cancelling(attempt: Attempt, *, alive: bool, rules: Rules) -> tuple[Instruction, ...]:
    """The builder was told over its session; a signal is the second try, and the third it cannot refuse."""
    waited = attempt.cancelling_s or 0.0
    if not alive or attempt.process is None or waited >= rules.kill_s:
        return _end(attempt, End(Cause.CANCELLED, attempt.cancel_reason))
    if waited >= rules.terminate_s:
        return (Terminate(attempt.ref, attempt.process),)
    return ()


def _end(attempt: Attempt, end: End) -> tuple[Instruction, ...]:
    return (Stop(attempt.ref, attempt.process), Fail(attempt.ref, end.cause, end.reason))
