"""Waits for a deployment to rest: its log as it grows, its states with how long each took, and how it ended."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from shipoff.cli import hints
from shipoff.cli.errors import ExitCode, Failure
from shipoff.cli.output import Output, duration, moment

if TYPE_CHECKING:
    from shipoff.cli.client import Api, Json

TAIL_LINES = 20
# How the builder begins a step, in a line of its own: one without a channel, which no program's output can be.
_STEP_MARK = "▸ "
# How it tells why a build failed.
_FAILED_MARK = "✗ "


class Watch:
    """Shows one deployment's messages and remembers what is needed to say how it ended."""

    def __init__(self, output: Output, deployment: Json) -> None:
        self._output = output
        self.deployment = deployment
        self._shown = 0
        self._announced = False
        self._build_tail: deque[str] = deque(maxlen=TAIL_LINES)

    def see(self, message: Json) -> None:
        """Takes in one message of the log's WebSocket."""
        if message["type"] == "lines":
            for entry in message["entries"]:
                self._line(entry)
        elif message["type"] == "state":
            self._state(message["deployment"])
        elif message["type"] == "gap":
            self._output.note(f"… {message['count']} lines were left out here; the whole log has them")

    def _line(self, entry: Json) -> None:
        if entry["source"] == "build":
            text = str(entry["text"])
            if text.startswith(_STEP_MARK) and not entry["channel"]:
                self._build_tail.clear()
            self._build_tail.append(text)
        if self._output.as_json:
            self._output.data({"type": "log", **entry})
        else:
            self._output.log_entry(entry, label=entry["source"] != "build")

    def _state(self, deployment: Json) -> None:
        self.deployment = deployment
        if deployment.get("number") and not self._announced:
            self._announced = True
            self._output.say(
                f"Deployment #{deployment['number']} of {deployment['project_name']} to {deployment['environment']}", bold=True
            )
        for transition in deployment["transitions"][self._shown :]:
            self._transition(transition)

    def _transition(self, transition: Json) -> None:
        index, self._shown = self._shown, self._shown + 1
        took = _took(self.deployment, index)
        self._output.data({"type": "state", "deployment_id": self.deployment["id"], **transition, "took_s": took})
        left, state = transition.get("from"), transition["to"]
        text = f"{left} took {duration(took)} → {state}" if left and left != state and took is not None else f"→ {state}"
        self._output.say(f"● {text}", colour=self._output.state_colour(state))

    @property
    def went_live(self) -> bool:
        """Whether it was ever in production and did not break there."""
        states = [transition["to"] for transition in self.deployment["transitions"]]
        return self.deployment["state"] == "production" or (self.deployment["state"] == "inactive" and "production" in states)

    @property
    def failed_in(self) -> str | None:
        """The state in which it failed."""
        return next((t.get("from") for t in reversed(self.deployment["transitions"]) if t["to"] == "failed"), None)

    def last_lines(self, api: Api) -> list[str]:
        """The lines that matter of a failure: those of the failed build step, or the app's last."""
        if self.failed_in == "building":
            return list(self._build_tail)
        if self.failed_in not in ("provisioning", "production"):
            return []
        page = api.get(f"/v1/deployments/{self.deployment['id']}/logs", source="app", tail=True, limit=TAIL_LINES)
        return [str(entry["text"]) for entry in page["items"]]


def _took(deployment: Json, index: int) -> float | None:
    """How many seconds the state before the transition lasted, by the platform's clock."""
    transitions = deployment["transitions"]
    begin = moment(transitions[index - 1]["time"] if index else deployment.get("created_at"))
    end = moment(transitions[index]["time"])
    return max((end - begin).total_seconds(), 0.0) if begin and end else None


def wait(api: Api, output: Output, accepted: Json, *, detach: bool) -> None:
    """Shows the accepted deployment until it rests. Raises Failure when it did not go live, or on an interruption."""
    if detach:
        output.data({"type": "accepted", "deployment": accepted})
        output.say(f"Accepted: deployment {_name(accepted)} of {accepted['project_name']}. Follow it: {_to_follow(accepted)}")
        return
    from shipoff.cli.follow import Wanted, follow

    watch = Watch(output, accepted)
    try:
        for message in follow(api, Wanted(accepted["id"], until_rest=True)):
            watch.see(message)
    except KeyboardInterrupt:
        cancel = hints.command(f"cancel {_number(watch.deployment)}", watch.deployment["project_name"])
        raise Failure(
            f"stopped watching; deployment {_name(watch.deployment)} goes on",
            code=ExitCode.INTERRUPTED,
            remedy=f"follow it: {_to_follow(watch.deployment)} · cancel it: {cancel}",
        ) from None
    _conclude(api, output, watch)


def _to_follow(deployment: Json) -> str:
    return hints.command(f"logs --build -f --deployment {_number(deployment)}", deployment["project_name"])


def _number(deployment: Json) -> str:
    return str(deployment.get("number") or deployment["id"])


def _name(deployment: Json) -> str:
    return f"#{deployment['number']}" if deployment.get("number") else str(deployment["id"])


def _conclude(api: Api, output: Output, watch: Watch) -> None:
    """The end: the URL, or the reason with the last lines. Raises Failure for the latter."""
    deployment = watch.deployment
    url = next(iter(deployment.get("urls") or []), None)
    if watch.went_live:
        output.data({"type": "result", "ok": True, "url": url, "deployment": deployment})
        total = _total(deployment)
        output.say(
            f"Live in {duration(total)}: {url or 'it has no address'}" if total is not None else f"Live: {url}",
            colour="green",
            bold=True,
        )
        return
    try:
        lines = watch.last_lines(api)
    except Failure:
        lines = []  # the reason is worth more than a second error
    reason = deployment.get("reason") or f"it ended {deployment['state']}"
    # The build says in its last line what the error will say.
    lines = [line for line in lines if line.removeprefix(_FAILED_MARK) != reason]
    output.data({"type": "result", "ok": False, "reason": reason, "last_lines": lines, "url": None, "deployment": deployment})
    if lines:
        output.say()
        output.say("The last lines that matter:", bold=True)
        for line in lines:
            output.say(f"  {line}")
    verb = "failed" if deployment["state"] == "failed" else "did not go live"
    build = " --build" if watch.failed_in == "building" else ""
    command = hints.command(f"logs{build} --deployment {_number(deployment)}", deployment["project_name"])
    whole_log = f"the whole log: {command}"
    raise Failure(f"deployment {_name(deployment)} {verb}: {reason}", remedy=whole_log if lines else "")


def _total(deployment: Json) -> float | None:
    begin = moment(deployment.get("created_at"))
    end = next((moment(t["time"]) for t in deployment["transitions"] if t["to"] == "production"), None)
    return (end - begin).total_seconds() if begin and end else None
