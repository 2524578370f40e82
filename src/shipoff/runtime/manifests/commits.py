"""What a commit to the GitOps repository says: what was done, for whom, and why. Pure."""

from __future__ import annotations

from shipoff.runtime.domain import Workload

_LONGEST_SUBJECT = 100
_LONGEST_LINE = 500


def released(workload: Workload) -> str:
    """A release comes up beside the one before it, or as what serves from now on."""
    return _message(f"Release {_place(workload)}", workload)


def switched(workload: Workload) -> str:
    """Requests are led to a release."""
    return _message(f"Switch {_place(workload)} to {workload.deployment_id}", workload)


def withdrawn(workload: Workload) -> str:
    """A release goes."""
    return _message(f"Remove {workload.deployment_id} from {_place(workload)}", workload)


def _place(workload: Workload) -> str:
    return f"{workload.project_name} ({workload.environment})"


def _message(subject: str, workload: Workload) -> str:
    """Trailers as `git interpret-trailers` reads them. What a user wrote is one line, and cannot add another."""
    trailers = {
        "Why": workload.why,
        "Requested-by": workload.requested_by,
        "Deployment": workload.deployment_id,
        "Project": workload.project_id,
        "Request": workload.request_id,
    }
    lines = [f"{name}: {_line(value, _LONGEST_LINE)}" for name, value in trailers.items() if value]
    return "\n".join([_line(subject, _LONGEST_SUBJECT), "", *lines, ""])


def _line(text: str, longest: int) -> str:
    line = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
