"""Names are not worth waiting for again and again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from shipoff.common.errors import Unavailable
from shipoff.contracts.orchestrator.v1 import orchestrator_pb2
from shipoff.gateway.people import People

ADA = "00000000-0000-4000-8000-000000000001"


async def test_identity_that_is_away_is_asked_once_for_a_list():
    asked: list[Any] = []

    async def away(request: Any) -> None:
        asked.append(request)
        raise Unavailable("away")

    people = People(SimpleNamespace(identity=SimpleNamespace(ListMembers=away)), SimpleNamespace())  # type: ignore[arg-type]
    deployments = [orchestrator_pb2.Deployment(id=str(n), team_id="t", requested_by=ADA) for n in range(20)]
    assert [(await people.named(one)).requested_by for one in deployments] == [ADA] * 20
    assert len(asked) == 1
