"""The errors that cross a boundary. Temporary ones are worth another try, permanent ones are not.

Adapters raise them instead of a driver's; rpc maps them to gRPC and back, the gateway to problem documents (RFC 9457),
stream consumers to a retry or a dead letter.
"""

from __future__ import annotations


class ShipoffError(Exception):
    """The root: `message` is for a person, `field` names what was wrong with the input, `remedy` what to do."""

    def __init__(self, message: str, *, field: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.remedy = remedy


class PermanentError(ShipoffError):
    """The same again will fail the same way."""


class TemporaryError(ShipoffError):
    """The same may work in `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float = 1.0, *, field: str = "", remedy: str = "") -> None:
        super().__init__(message, field=field, remedy=remedy)
        self.retry_after_s = retry_after_s


class InvalidInput(PermanentError):
    """What somebody sent is wrong."""


class NotFound(PermanentError):
    """It does not exist, or not for this caller."""


class AlreadyExists(PermanentError):
    """Its name or id is taken."""


class PreconditionFailed(PermanentError):
    """The object's state does not allow it."""


class Unauthenticated(PermanentError):
    """The caller did not prove who it is."""


class PermissionDenied(PermanentError):
    """The caller may not do this."""


class Aborted(PermanentError):
    """Somebody newer was faster: a fence or a version did not match."""


class DataLoss(PermanentError):
    """Bytes are not what their digest says."""


class Exhausted(TemporaryError):
    """A quota, a pool or a disk is full."""


class Unavailable(TemporaryError):
    """The other side does not answer."""


class Contended(Unavailable):
    """Somebody else's transaction was in the way of this one."""


class DeadlineExceeded(TemporaryError):
    """The other side did not answer in time; it may have done it all the same."""


class Internal(PermanentError):
    """A defect on the other side."""
