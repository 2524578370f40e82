"""Setup, tokens, teams and members on a real database."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from google.protobuf.timestamp_pb2 import Timestamp

from shipoff.common.errors import AlreadyExists, Exhausted, InvalidInput, NotFound, PreconditionFailed, Unauthenticated
from shipoff.common.ids import new_id
from shipoff.contracts.identity.v1 import identity_pb2 as pb


def stamp(moment: datetime) -> Timestamp:
    out = Timestamp()
    out.FromDatetime(moment)
    return out


async def authenticated(identity: Any, secret: str) -> pb.AuthenticateResponse:
    return await identity.stub.Authenticate(pb.AuthenticateRequest(secret=secret))


async def test_the_first_owner_signs_in_with_the_returned_secret(identity: Any) -> None:
    made = await identity.first_owner()
    found = await authenticated(identity, made.secret)
    assert found.user == made.user
    assert [(m.team.name, m.role) for m in found.memberships] == [("acme", pb.ROLE_OWNER)]


async def test_everybody_is_told_which_team_runs_the_platform(identity: Any) -> None:
    made = await identity.first_owner()
    request = pb.CreateTeamRequest(owner_user_id=made.user.id, name="another")
    team = (await identity.stub.CreateTeam(request)).team
    added = await identity.stub.AddMember(pb.AddMemberRequest(team_id=team.id, email="bo@example.com", role=pb.ROLE_OWNER))
    for secret in (made.secret, added.secret):
        assert (await authenticated(identity, secret)).platform_team_id == made.team.id


async def test_a_wrong_setup_token_makes_nobody(identity: Any) -> None:
    request = pb.CreateFirstOwnerRequest(setup_token="guess", email="eve@example.com", name="Eve", team_name="evil")
    with pytest.raises(Unauthenticated):
        await identity.stub.CreateFirstOwner(request)
    assert await identity.database.all(sa.text("SELECT 1 FROM users")) == []


async def test_of_many_concurrent_setups_exactly_one_wins(identity: Any) -> None:
    results = await asyncio.gather(
        *(identity.first_owner(email=f"u{n}@example.com", team=f"t{n}") for n in range(8)), return_exceptions=True
    )
    won = [result for result in results if isinstance(result, pb.CreateFirstOwnerResponse)]
    assert len(won) == 1
    assert all(isinstance(result, PreconditionFailed) for result in results if result is not won[0])
    users = await identity.database.all(sa.text("SELECT email FROM users"))
    assert [row["email"] for row in users] == [won[0].user.email]


async def test_setup_works_once(identity: Any) -> None:
    await identity.first_owner()
    with pytest.raises(PreconditionFailed):
        await identity.first_owner(email="second@example.com", team="second")


async def test_a_secret_is_nowhere_in_the_database(identity: Any) -> None:
    made = await identity.first_owner()
    rows = await identity.database.all(sa.text("SELECT t::text AS everything FROM tokens t"))
    assert all(made.secret not in row["everything"] for row in rows)


async def test_unknown_revoked_and_expired_tokens_are_told_in_the_same_words(identity: Any) -> None:
    made = await identity.first_owner()
    revoked = await identity.stub.CreateToken(pb.CreateTokenRequest(user_id=made.user.id, name="old"))
    await identity.stub.RevokeToken(pb.RevokeTokenRequest(user_id=made.user.id, token_id=revoked.token.id))
    expired = await identity.stub.CreateToken(
        pb.CreateTokenRequest(user_id=made.user.id, name="past", expires_at=stamp(datetime.now(UTC) - timedelta(seconds=1)))
    )
    messages = set()
    for secret in ["shp_unknown", "x", revoked.secret, expired.secret]:
        with pytest.raises(Unauthenticated) as raised:
            await authenticated(identity, secret)
        messages.add((raised.value.message, raised.value.remedy))
    assert len(messages) == 1


async def test_a_token_lasts_as_long_as_its_maker_said_or_a_year(identity: Any) -> None:
    made = await identity.first_owner()
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=3)
    short = await identity.stub.CreateToken(pb.CreateTokenRequest(user_id=made.user.id, name="ci", expires_at=stamp(until)))
    default = await identity.stub.CreateToken(pb.CreateTokenRequest(user_id=made.user.id, name="laptop"))
    assert short.token.expires_at.ToDatetime(UTC) == until
    lasts = default.token.expires_at.ToDatetime(UTC) - default.token.created_at.ToDatetime(UTC)
    assert lasts == timedelta(days=365)
    listed = await identity.stub.ListTokens(pb.ListTokensRequest(user_id=made.user.id))
    assert [token.name for token in listed.tokens] == ["first token", "ci", "laptop"]
    assert not listed.tokens[0].HasField("expires_at")


async def test_the_last_use_is_written_at_most_once_a_minute(identity: Any) -> None:
    made = await identity.first_owner()
    await authenticated(identity, made.secret)
    first = await used(identity)
    await authenticated(identity, made.secret)
    assert await used(identity) == first
    async with identity.database.transaction() as tx:
        await tx.execute(sa.text("UPDATE tokens SET last_used_at = now() - interval '61 seconds'"))
    await authenticated(identity, made.secret)
    assert await used(identity) > first


async def used(identity: Any) -> datetime:
    (row,) = await identity.database.all(sa.text("SELECT last_used_at FROM tokens"))
    moment: datetime = row["last_used_at"]
    return moment


async def test_nobody_revokes_another_users_token(identity: Any) -> None:
    made = await identity.first_owner()
    other = await identity.stub.AddMember(
        pb.AddMemberRequest(team_id=made.team.id, email="bob@example.com", role=pb.ROLE_VIEWER)
    )
    mine = (await identity.stub.ListTokens(pb.ListTokensRequest(user_id=made.user.id))).tokens[0]
    with pytest.raises(NotFound):
        await identity.stub.RevokeToken(pb.RevokeTokenRequest(user_id=other.user.id, token_id=mine.id))
    assert (await authenticated(identity, made.secret)).token_id == mine.id


async def test_a_user_has_a_bounded_number_of_tokens(identity: Any) -> None:
    made = await identity.first_owner()
    async with identity.database.transaction() as tx:
        await tx.execute(
            sa.text(
                "INSERT INTO tokens (id, user_id, name, hash) SELECT gen_random_uuid(), id, 'n', sha256(g::text::bytea)"
                " FROM users, generate_series(1, 199) g"
            )
        )
    with pytest.raises(Exhausted):
        await identity.stub.CreateToken(pb.CreateTokenRequest(user_id=made.user.id, name="one too many"))


async def test_a_new_member_gets_a_first_token_and_a_known_one_does_not(identity: Any) -> None:
    made = await identity.first_owner()
    add = pb.AddMemberRequest(team_id=made.team.id, email="Bob@example.com", role=pb.ROLE_DEVELOPER)
    first = await identity.stub.AddMember(add)
    assert (await authenticated(identity, first.secret)).user.email == "Bob@example.com"
    again = await identity.stub.AddMember(
        pb.AddMemberRequest(team_id=made.team.id, email="bob@EXAMPLE.com", role=pb.ROLE_VIEWER)
    )
    assert (again.user.id, again.secret) == (first.user.id, "")
    members = await identity.stub.ListMembers(pb.ListMembersRequest(team_id=made.team.id))
    assert [(m.user.email, m.role) for m in members.members] == [
        ("ada@example.com", pb.ROLE_OWNER),
        ("Bob@example.com", pb.ROLE_VIEWER),
    ]


async def test_a_removed_member_keeps_its_token_but_not_the_team(identity: Any) -> None:
    made = await identity.first_owner()
    bob = await identity.stub.AddMember(pb.AddMemberRequest(team_id=made.team.id, email="bob@example.com", role=pb.ROLE_OWNER))
    await identity.stub.RemoveMember(pb.RemoveMemberRequest(team_id=made.team.id, user_id=bob.user.id))
    assert list((await authenticated(identity, bob.secret)).memberships) == []
    with pytest.raises(NotFound):
        await identity.stub.RemoveMember(pb.RemoveMemberRequest(team_id=made.team.id, user_id=bob.user.id))


async def test_the_last_owner_can_neither_leave_nor_be_demoted(identity: Any) -> None:
    made = await identity.first_owner()
    with pytest.raises(PreconditionFailed, match="at least one owner"):
        await identity.stub.RemoveMember(pb.RemoveMemberRequest(team_id=made.team.id, user_id=made.user.id))
    with pytest.raises(PreconditionFailed, match="at least one owner"):
        await identity.stub.AddMember(pb.AddMemberRequest(team_id=made.team.id, email="ada@example.com", role=pb.ROLE_VIEWER))


async def test_two_owners_who_remove_each_other_leave_one(identity: Any) -> None:
    made = await identity.first_owner()
    for _ in range(5):
        bob = await identity.stub.AddMember(
            pb.AddMemberRequest(team_id=made.team.id, email="bob@example.com", role=pb.ROLE_OWNER)
        )
        results = await asyncio.gather(
            *(
                identity.stub.RemoveMember(pb.RemoveMemberRequest(team_id=made.team.id, user_id=user_id))
                for user_id in (bob.user.id, made.user.id)
            ),
            return_exceptions=True,
        )
        assert sum(isinstance(result, PreconditionFailed) for result in results) == 1
        await identity.stub.AddMember(pb.AddMemberRequest(team_id=made.team.id, email="ada@example.com", role=pb.ROLE_OWNER))


async def test_a_team_name_is_taken_once(identity: Any) -> None:
    made = await identity.first_owner()
    with pytest.raises(AlreadyExists):
        await identity.stub.CreateTeam(pb.CreateTeamRequest(owner_user_id=made.user.id, name="acme"))
    team = (await identity.stub.CreateTeam(pb.CreateTeamRequest(owner_user_id=made.user.id, name="second"))).team
    found = await authenticated(identity, made.secret)
    assert {m.team.id for m in found.memberships} == {made.team.id, team.id}


async def test_what_does_not_exist_is_not_found(identity: Any) -> None:
    await identity.first_owner()
    with pytest.raises(NotFound):
        await identity.stub.CreateTeam(pb.CreateTeamRequest(owner_user_id=new_id(), name="nobody"))
    with pytest.raises(NotFound):
        await identity.stub.CreateToken(pb.CreateTokenRequest(user_id=new_id(), name="nobody"))
    with pytest.raises(NotFound):
        await identity.stub.AddMember(pb.AddMemberRequest(team_id=new_id(), email="x@example.com", role=pb.ROLE_OWNER))


async def test_the_contract_is_checked_before_anything_happens(identity: Any) -> None:
    with pytest.raises(InvalidInput) as raised:
        await identity.stub.CreateTeam(pb.CreateTeamRequest(owner_user_id=new_id(), name="Not A Label"))
    assert raised.value.field == "name"
