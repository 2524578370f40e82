"""Dead events over REST, for an owner of the platform; who else may not is in test_gateway_access."""

from __future__ import annotations

from typing import Any

from neighbours.gateway import NOW

from shipoff.common.ids import new_id
from shipoff.contracts.worker.v1 import worker_pb2

ID = "deployment.queue:1800000000000-0"


def bury(rig: Any, **fields: Any) -> None:
    known = {"id": ID, "stream": "deployment.queue", "group": "orchestrator", "reason": "ValueError: no", "tries": 5}
    rig.world.dead.append(worker_pb2.DeadEvent(**{**known, "buried_at": NOW, **fields}))


async def test_dead_events_are_listed_with_why_and_how_often(rig: Any) -> None:
    event_id, team_id = new_id(), new_id()
    bury(rig, event_id=event_id, event_type="shipoff.events.v1.BuildStarted", team_id=team_id, event_time=NOW)
    bury(rig, id="logs.ingest:1-0")
    answer = await rig.call("GET", "/v1/events/dead?stream=deployment.queue&group=orchestrator", token=rig.owner)
    first, second = answer.json()["items"]
    assert (first["id"], first["reason"], first["tries"], first["team_id"]) == (ID, "ValueError: no", 5, team_id)
    assert (second["event_id"], second["event_type"], second["event_time"]) == (None, None, None)
    (asked,) = rig.world.asked("ListDeadEvents")
    assert (asked.stream, asked.group) == ("deployment.queue", "orchestrator")


async def test_one_is_shown_with_its_payload(rig: Any) -> None:
    bury(rig)
    assert (await rig.call("GET", f"/v1/events/dead/{ID}", token=rig.owner)).json()["payload"] == {"attempt": "1"}
    assert (await rig.call("GET", "/v1/events/dead/logs.ingest:9-9", token=rig.owner)).status_code == 404


async def test_replaying_and_dropping_are_written_down(rig: Any) -> None:
    for number in range(4):
        bury(rig, id=f"logs.ingest:{number}-0")
    assert (await rig.call("POST", "/v1/events/dead/logs.ingest:0-0/replay", token=rig.owner)).json() == {"count": 1}
    assert (await rig.call("DELETE", "/v1/events/dead/logs.ingest:1-0", token=rig.owner)).status_code == 204
    body = {"stream": "logs.ingest"}
    assert (await rig.call("POST", "/v1/events/dead/replay", token=rig.owner, json=body)).json() == {"count": 2}
    assert (await rig.call("POST", "/v1/events/dead/drop", token=rig.owner, json={})).json() == {"count": 0}
    assert rig.world.audited() == ["events.replay", "events.drop", "events.replay", "events.drop"]
