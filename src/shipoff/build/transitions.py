"""What to do about an attempt: pure, so that every case is a row of a test."""

from __future__ import annotations

from shipoff.build.domain import Attempt, Cause, CleanUp, Fail, Instruction, Launch, Rules, State, Stop, Terminate

_LOST = "the builder was lost: its process ended without an outcome"
_SILENT = "the builder was lost: nothing was heard of it for too long"
_NOT_STARTED = "no builder could be started: is the machine's disk or its process table full? The platform's log has the reason"
_LATE = "the build was not done in the time it may take"


def decide(attempt: Attempt, *, alive: bool, observed_s: float, rules: Rules) -> tuple[Instruction, ...]:
    """The instructions, in order. `alive`: its process exists; `observed_s`: how long this service has been able to hear.

    Processes are stopped before the attempt is failed: whoever hears of it may give its share of the machine away.
    """
    if attempt.state is not State.RUNNING:
        if alive and attempt.ended_s < rules.leave_s:
            return ()
        return (Stop(attempt.ref, attempt.process), CleanUp(attempt.ref))
    if attempt.cancelling_s is not None:
        return _cancelling(attempt, alive=alive, rules=rules)
    if attempt.process is None:
        late = attempt.unseen_s > rules.launch_s and observed_s > rules.launch_s
        return _end(attempt, Cause.PLATFORM, _NOT_STARTED) if late else (Launch(attempt.ref),)
    if not alive:
        return _end(attempt, Cause.BUILDER_LOST, _LOST)
    if attempt.remaining_s < -rules.overtime_s:
        return _end(attempt, Cause.TIMEOUT, _LATE)
    if attempt.unseen_s > rules.lease_s and observed_s > rules.lease_s:
        return _end(attempt, Cause.BUILDER_LOST, _SILENT)
    return ()


def _cancelling(attempt: Attempt, *, alive: bool, rules: Rules) -> tuple[Instruction, ...]:
    """The builder was told over its session; a signal is the second try, and the third it cannot refuse."""
    waited = attempt.cancelling_s or 0.0
    if not alive or attempt.process is None or waited >= rules.kill_s:
        return _end(attempt, Cause.CANCELLED, attempt.cancel_reason)
    if waited >= rules.terminate_s:
        return (Terminate(attempt.ref, attempt.process),)
    return ()


def _end(attempt: Attempt, cause: Cause, reason: str) -> tuple[Instruction, ...]:
    return (Stop(attempt.ref, attempt.process), Fail(attempt.ref, cause, reason))
