"""The caller, its tokens, its teams and their members."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

from shipoff.common.errors import NotFound
from shipoff.contracts.identity.v1 import identity_pb2
from shipoff.gateway import audit
from shipoff.gateway.access import Access, Caller, OwnedTeam, Platform, Reach, ViewedTeam, is_id
from shipoff.gateway.authentication import Role
from shipoff.gateway.models.accounts import (
    AuditEntryOut,
    MemberIn,
    MemberOut,
    MeOut,
    NewMemberOut,
    NewTokenOut,
    TeamIn,
    TeamOut,
    TokenIn,
    TokenOut,
    audit_entry_out,
    me_out,
    member_out,
    role_value,
    token_out,
    user_out,
)
from shipoff.gateway.models.common import Cursor, Limit, Listing, Page, stamp_of
from shipoff.gateway.routing import guarded

router = guarded("accounts")

_Id = Annotated[str, Path(max_length=36)]


@router.get("/v1/me")
async def me(caller: Caller) -> MeOut:
    """Who the token belongs to, and in which teams."""
    return me_out(caller)


@router.get("/v1/tokens")
async def list_tokens(caller: Caller, gateway: Platform) -> Listing[TokenOut]:
    """The caller's own tokens, without their secrets."""
    answer = await gateway.clients.identity.ListTokens(identity_pb2.ListTokensRequest(user_id=caller.user_id))
    return Listing(items=[token_out(token) for token in answer.tokens])


async def _record_in_every_team(reach: Access, action: str, token_id: str, detail: str) -> None:
    """A token opens every team its user is in."""
    for team_id in reach.principal.roles:
        await audit.record(reach, action, team_id=team_id, object_id=token_id, detail=detail)


@router.post("/v1/tokens", status_code=201)
async def create_token(body: TokenIn, reach: Reach) -> NewTokenOut:
    """Makes a token for the caller; its secret is shown this once."""
    expires_at = stamp_of(body.expires_at) if body.expires_at else None
    answer = await reach.gateway.clients.identity.CreateToken(
        identity_pb2.CreateTokenRequest(user_id=reach.principal.user_id, name=body.name, expires_at=expires_at)
    )
    await _record_in_every_team(reach, "token.create", answer.token.id, body.name)
    return NewTokenOut(**token_out(answer.token).model_dump(), token=answer.secret)


@router.delete("/v1/tokens/{token_id}", status_code=204)
async def revoke_token(token_id: _Id, reach: Reach) -> None:
    """Revokes one of the caller's own tokens."""
    if not is_id(token_id):
        raise NotFound(f"there is no token {token_id}")
    await reach.gateway.clients.identity.RevokeToken(
        identity_pb2.RevokeTokenRequest(user_id=reach.principal.user_id, token_id=token_id)
    )
    reach.gateway.authenticator.forget()
    await _record_in_every_team(reach, "token.revoke", token_id, "")


@router.post("/v1/teams", status_code=201)
async def create_team(body: TeamIn, reach: Reach) -> TeamOut:
    """Makes a team with the caller as its owner."""
    answer = await reach.gateway.clients.identity.CreateTeam(
        identity_pb2.CreateTeamRequest(owner_user_id=reach.principal.user_id, name=body.name)
    )
    reach.gateway.authenticator.forget()
    await audit.record(reach, "team.create", team_id=answer.team.id, object_id=answer.team.id, detail=body.name)
    return TeamOut(id=answer.team.id, name=answer.team.name)


@router.get("/v1/teams/{team_id}/members")
async def list_members(team_id: ViewedTeam, gateway: Platform) -> Listing[MemberOut]:
    """Who is in the team, owners first."""
    answer = await gateway.clients.identity.ListMembers(identity_pb2.ListMembersRequest(team_id=team_id))
    return Listing(items=[member_out(member) for member in answer.members])


@router.post("/v1/teams/{team_id}/members", status_code=201)
async def add_member(team_id: OwnedTeam, body: MemberIn, reach: Reach) -> NewMemberOut:
    """Adds a user by e-mail address, or changes the role of a member."""
    answer = await reach.gateway.clients.identity.AddMember(
        identity_pb2.AddMemberRequest(team_id=team_id, email=body.email, role=role_value(body.role))
    )
    reach.gateway.authenticator.forget()
    await audit.record(reach, "member.set", team_id=team_id, object_id=answer.user.id, detail=f"{body.email} as {body.role}")
    return NewMemberOut(user=user_out(answer.user), role=body.role, token=answer.secret or None)


@router.delete("/v1/teams/{team_id}/members/{user_id}", status_code=204)
async def remove_member(team_id: ViewedTeam, user_id: _Id, reach: Reach) -> None:
    """Takes a member out of the team: an owner anybody, everybody themselves."""
    if user_id != reach.principal.user_id:
        reach.team(team_id, needs=Role.OWNER)
    if not is_id(user_id):
        raise NotFound(f"{user_id} is not a member of the team")
    await reach.gateway.clients.identity.RemoveMember(identity_pb2.RemoveMemberRequest(team_id=team_id, user_id=user_id))
    reach.gateway.authenticator.forget()
    await audit.record(reach, "member.remove", team_id=team_id, object_id=user_id)


@router.get("/v1/teams/{team_id}/audit")
async def list_audit(team_id: OwnedTeam, gateway: Platform, limit: Limit = 50, cursor: Cursor = "") -> Page[AuditEntryOut]:
    """What the team's members changed, newest first."""
    answer = await gateway.clients.identity.ListAudit(
        identity_pb2.ListAuditRequest(team_id=team_id, page_size=limit, page_token=cursor)
    )
    return Page(items=[audit_entry_out(entry) for entry in answer.entries], next_cursor=answer.next_page_token or None)
