"""One deployment in detail: what it was made from, and its timeline. Called by `shipoff status`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from shipoff.cli.output import Output, ago, duration, moment, size

if TYPE_CHECKING:
    from shipoff.cli.client import Api, Json


def show(api: Api, output: Output, deployment: Json, *, timeline: bool) -> None:
    """Shows the deployment, or with `timeline` how it went."""
    if timeline:
        found = api.get(f"/v1/deployments/{deployment['id']}/timeline")
        output.data(found)
        output.say(f"{_title(deployment)}: {found['state']}{_went_live(found)}", bold=True)
        output.table(("STATE", "AT", "TOOK", "BY", "WHY"), list(_rows(found)))
        return
    found = api.get(f"/v1/deployments/{deployment['id']}")
    output.data(found)
    output.say(_title(found), bold=True)
    for label, text in _facts(found):
        output.say(f"  {label:<11} {text}")


def _title(deployment: Json) -> str:
    number = f"#{deployment['number']}" if deployment.get("number") else deployment["id"]
    return f"{deployment['project_name']} {number} · {deployment['environment']}"


def _went_live(found: Json) -> str:
    return f", live after {duration(found['total_s'])}" if found["total_s"] is not None else ""


def _rows(found: Json) -> Iterator[tuple[str, ...]]:
    for stay in found["items"]:
        yield stay["state"], _clock(stay["entered_at"]), _took(stay), stay["actor"] or "-", stay["reason"] or "-"
        if len(stay["attempts"]) > 1:
            for attempt in stay["attempts"]:
                begun = _clock(attempt["started_at"])
                yield f"  attempt {attempt['attempt']}", begun, _took(attempt), "", attempt["reason"] or "-"


def _took(stay: Json) -> str:
    return duration(stay["duration_s"]) if stay["duration_s"] is not None else "-"


def _clock(text: str) -> str:
    """The time here, to the second."""
    at: datetime | None = moment(text)
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S") if at else "-"


def _facts(found: Json) -> Iterator[tuple[str, str]]:
    snapshot, plan = found["snapshot"], found["plan"]
    reason = f": {found['reason']}" if found["reason"] else ""
    yield "state", f"{found['state']} ({ago(found['changed_at'])}){reason}"
    yield "trigger", found["trigger"].replace("_", " ")
    yield "commit", " ".join(part for part in (found["commit"][:10], found["commit_message"].partition("\n")[0]) if part) or "-"
    yield (
        "plan",
        " ".join(dict.fromkeys(part for part in (plan["provider"], plan["framework"], plan["mode"]) if part)) if plan else "-",
    )
    digest = snapshot["artifact_digest"]
    yield "artifact", f"{digest} ({size(snapshot['artifact_size_bytes'])})" if digest else "none is kept"
    yield "limits", _limits(snapshot["run"])
    variables = sorted(snapshot["variables"].items())
    yield "variables", ", ".join(f"{name} (version {version})" for name, version in variables) or "none"


def _limits(run: Json) -> str:
    """What an instance may use; what the project says nothing about is the platform's default."""
    cpu = f"{run['cpu_millis']} millicores" if run["cpu_millis"] else "default CPU"
    memory = size(run["memory_bytes"]) if run["memory_bytes"] else "default memory"
    return f"{run['replicas'] or 1} × {memory}, {cpu}"
