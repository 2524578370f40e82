"""What ends a verb: an error for the person, and the exit code for the script."""

from __future__ import annotations

from enum import IntEnum

from shipoff.common.errors import ShipoffError


class ExitCode(IntEnum):
    """The exit codes scripts can rely on."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    NOT_SIGNED_IN = 3
    NOT_FOUND = 4
    UNREACHABLE = 5
    INTERRUPTED = 130


# As `shipoff --help` and docs/guide/cli.md tell them.
MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "done",
    ExitCode.REFUSED: "the deployment did not go live, or the platform refused: its state or your role does not allow it",
    ExitCode.USAGE: "wrong usage, a wrong file of yours, or input that the platform does not take",
    ExitCode.NOT_SIGNED_IN: "not signed in",
    ExitCode.NOT_FOUND: "not found, or not yours to see; nothing is live",
    ExitCode.UNREACHABLE: "the platform cannot be reached",
    ExitCode.INTERRUPTED: "interrupted; a deployment that was accepted goes on",
}


class Failure(ShipoffError):
    """Ends the verb with a message on standard error and an exit code."""

    def __init__(self, message: str, *, code: ExitCode = ExitCode.REFUSED, field: str = "", remedy: str = "") -> None:
        super().__init__(message, field=field, remedy=remedy)
        self.code = code


class UsageFailure(Failure):
    """What the person typed, or a file of theirs, is wrong."""

    def __init__(self, message: str, *, field: str = "", remedy: str = "") -> None:
        super().__init__(message, code=ExitCode.USAGE, field=field, remedy=remedy)


class Missing(Failure):
    """The platform knows no such thing, or none that this person may see."""

    def __init__(self, message: str, *, field: str = "", remedy: str = "") -> None:
        super().__init__(message, code=ExitCode.NOT_FOUND, field=field, remedy=remedy)


class Unreachable(Failure):
    """Nothing answers, or what answers is no Shipoff."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message, code=ExitCode.UNREACHABLE, remedy=remedy)
