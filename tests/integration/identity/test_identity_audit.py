"""The audit log only grows."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from shipoff.common.errors import InvalidInput, PreconditionFailed
from shipoff.common.ids import new_id
from shipoff.contracts.identity.v1 import identity_pb2 as pb


async def record(identity: Any, team_id: str, action: str, entry_id: str = "") -> None:
    entry = pb.AuditEntry(id=entry_id, team_id=team_id, actor="somebody", action=action, object_id="it", detail="d")
    await identity.stub.RecordAudit(pb.RecordAuditRequest(entry=entry))


async def listed(identity: Any, team_id: str, *, size: int = 0, token: str = "") -> pb.ListAuditResponse:
    return await identity.stub.ListAudit(pb.ListAuditRequest(team_id=team_id, page_size=size, page_token=token))


async def test_entries_are_listed_newest_first_and_in_pages(identity: Any) -> None:
    team = new_id()
    for number in range(5):
        await record(identity, team, f"action.{number}")
    await record(identity, new_id(), "of.another.team")
    seen, token = [], ""
    while True:
        page = await listed(identity, team, size=2, token=token)
        seen += [entry.action for entry in page.entries]
        assert len(page.entries) <= 2
        token = page.next_page_token
        if not token:
            break
    assert seen == [f"action.{number}" for number in (4, 3, 2, 1, 0)]


async def test_the_same_entry_is_recorded_once(identity: Any) -> None:
    team, entry_id = new_id(), new_id()
    await record(identity, team, "project.create", entry_id)
    await record(identity, team, "project.create", entry_id)
    assert len((await listed(identity, team)).entries) == 1


@pytest.mark.parametrize("statement", ["UPDATE audit SET actor = 'me'", "DELETE FROM audit", "TRUNCATE audit"])
async def test_the_database_refuses_to_change_the_log(identity: Any, statement: str) -> None:
    team = new_id()
    await record(identity, team, "project.delete")
    with pytest.raises(PreconditionFailed, match="only grows"):
        async with identity.database.transaction() as tx:
            await tx.execute(sa.text(statement))
    assert [entry.actor for entry in (await listed(identity, team)).entries] == ["somebody"]


@pytest.mark.parametrize("token", ["nonsense", "!!", "LTE=", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5"])
async def test_a_foreign_cursor_is_refused(identity: Any, token: str) -> None:
    with pytest.raises(InvalidInput):
        await listed(identity, new_id(), token=token)
