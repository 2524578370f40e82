"""IdentityService: gRPC ↔ domain."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from shipoff.common.errors import InvalidInput
from shipoff.common.ids import new_id
from shipoff.contracts.identity.v1 import identity_pb2 as pb
from shipoff.contracts.identity.v1 import identity_pb2_grpc
from shipoff.identity.domain import AuditEntry, Membership, Role, Team, Token, User
from shipoff.identity.handlers import Accounts


class IdentityServer(identity_pb2_grpc.IdentityServiceServicer):
    """Translates; `Accounts` decides."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def CreateFirstOwner(self, request: pb.CreateFirstOwnerRequest, context: object) -> pb.CreateFirstOwnerResponse:
        user, team = User(new_id(), request.email, request.name), Team(new_id(), request.team_name)
        secret = await self._accounts.create_first_owner(request.setup_token, user, team)
        return pb.CreateFirstOwnerResponse(user=_user(user), team=_team(team), secret=secret)

    async def Authenticate(self, request: pb.AuthenticateRequest, context: object) -> pb.AuthenticateResponse:
        identity = await self._accounts.authenticate(request.secret)
        memberships = [_membership(membership) for membership in identity.memberships]
        return pb.AuthenticateResponse(
            user=_user(identity.user),
            memberships=memberships,
            token_id=identity.token_id,
            platform_team_id=identity.platform_team_id,
        )

    async def CreateToken(self, request: pb.CreateTokenRequest, context: object) -> pb.CreateTokenResponse:
        expires_at = request.expires_at.ToDatetime(UTC) if request.HasField("expires_at") else None
        token, secret = await self._accounts.create_token(request.user_id, request.name, expires_at=expires_at)
        return pb.CreateTokenResponse(token=_token(token), secret=secret)

    async def ListTokens(self, request: pb.ListTokensRequest, context: object) -> pb.ListTokensResponse:
        return pb.ListTokensResponse(tokens=[_token(token) for token in await self._accounts.list_tokens(request.user_id)])

    async def RevokeToken(self, request: pb.RevokeTokenRequest, context: object) -> pb.RevokeTokenResponse:
        await self._accounts.revoke_token(user_id=request.user_id, token_id=request.token_id)
        return pb.RevokeTokenResponse()

    async def CreateTeam(self, request: pb.CreateTeamRequest, context: object) -> pb.CreateTeamResponse:
        return pb.CreateTeamResponse(
            team=_team(await self._accounts.create_team(request.name, owner_user_id=request.owner_user_id))
        )

    async def AddMember(self, request: pb.AddMemberRequest, context: object) -> pb.AddMemberResponse:
        user, secret = await self._accounts.add_member(request.team_id, request.email, Role(request.role))
        return pb.AddMemberResponse(user=_user(user), secret=secret)

    async def RemoveMember(self, request: pb.RemoveMemberRequest, context: object) -> pb.RemoveMemberResponse:
        await self._accounts.remove_member(team_id=request.team_id, user_id=request.user_id)
        return pb.RemoveMemberResponse()

    async def ListMembers(self, request: pb.ListMembersRequest, context: object) -> pb.ListMembersResponse:
        members = await self._accounts.list_members(request.team_id)
        return pb.ListMembersResponse(
            members=[pb.Member(user=_user(member.user), role=_role(member.role)) for member in members]
        )

    async def RecordAudit(self, request: pb.RecordAuditRequest, context: object) -> pb.RecordAuditResponse:
        entry = request.entry
        entry_id, team_id = _uuid(entry.id or new_id(), "entry.id"), _uuid(entry.team_id, "entry.team_id")
        await self._accounts.record(AuditEntry(entry_id, team_id, entry.actor, entry.action, entry.object_id, entry.detail))
        return pb.RecordAuditResponse()

    async def ListAudit(self, request: pb.ListAuditRequest, context: object) -> pb.ListAuditResponse:
        entries, next_token = await self._accounts.list_audit(
            request.team_id, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListAuditResponse(entries=[_entry(entry) for entry in entries], next_page_token=next_token)


def _uuid(text: str, field: str) -> str:
    try:
        return str(UUID(text))
    except ValueError as error:
        raise InvalidInput(f"{field} has to be a UUID", field=field) from error


def _user(user: User) -> pb.User:
    return pb.User(id=user.id, email=user.email, name=user.name)


def _team(team: Team) -> pb.Team:
    return pb.Team(id=team.id, name=team.name)


def _role(role: Role) -> pb.Role.ValueType:
    return pb.Role.ValueType(int(role))


def _membership(membership: Membership) -> pb.Membership:
    return pb.Membership(team=_team(membership.team), role=_role(membership.role))


def _time(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def _token(token: Token) -> pb.Token:
    return pb.Token(
        id=token.id,
        name=token.name,
        created_at=_time(token.created_at),
        expires_at=_time(token.expires_at),
        last_used_at=_time(token.last_used_at),
    )


def _entry(entry: AuditEntry) -> pb.AuditEntry:
    return pb.AuditEntry(
        id=entry.id,
        time=_time(entry.time),
        team_id=entry.team_id,
        actor=entry.actor,
        action=entry.action,
        object_id=entry.object_id,
        detail=entry.detail,
    )
