"""Users, tokens, teams, members, the audit log."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from shipoff.contracts.identity.v1 import identity_pb2
from shipoff.gateway.authentication import Principal, Role
from shipoff.gateway.models.common import Email, Incoming, Label, Outgoing, moment, moment_or_none

# Within what every clock and contract can say, whatever its zone.
_Expiry = Annotated[AwareDatetime, Field(ge=datetime(2000, 1, 1, tzinfo=UTC), lt=datetime(9000, 1, 1, tzinfo=UTC))]
RoleName = Literal["viewer", "developer", "owner"]


class SetupIn(Incoming):
    setup_token: str = Field(min_length=1, max_length=200, description="The operator finds it in the platform's data folder.")
    email: Email
    name: str = Field(min_length=1, max_length=100)
    team: Label


class UserOut(Outgoing):
    id: str
    email: str
    name: str


class TeamOut(Outgoing):
    id: str
    name: str


class SetupOut(Outgoing):
    user: UserOut
    team: TeamOut
    token: str = Field(description="Shown once.")


class MembershipOut(Outgoing):
    id: str
    name: str
    role: RoleName


class MeOut(Outgoing):
    user: UserOut
    teams: list[MembershipOut]
    token_id: str


class TokenIn(Incoming):
    name: str = Field(min_length=1, max_length=100)
    expires_at: _Expiry | None = Field(default=None, description="Absent: after a year.")


class TokenOut(Outgoing):
    id: str
    name: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


class NewTokenOut(TokenOut):
    token: str = Field(description="The secret; shown once.")


class TeamIn(Incoming):
    name: Label


class MemberIn(Incoming):
    email: Email
    role: RoleName


class MemberOut(Outgoing):
    user: UserOut
    role: RoleName


class NewMemberOut(MemberOut):
    token: str | None = Field(description="A first token, shown once, where the user is new.")


class AuditEntryOut(Outgoing):
    id: str
    time: datetime
    actor: str
    action: str
    object_id: str
    detail: str


def user_out(user: identity_pb2.User) -> UserOut:
    return UserOut(id=user.id, email=user.email, name=user.name)


def me_out(principal: Principal) -> MeOut:
    """Teams by name."""
    teams = [
        MembershipOut(id=team_id, name=principal.team_names[team_id], role=role_name(role))
        for team_id, role in sorted(principal.roles.items(), key=lambda pair: principal.team_names[pair[0]])
    ]
    user = UserOut(id=principal.user_id, email=principal.email, name=principal.name)
    return MeOut(user=user, teams=teams, token_id=principal.token_id)


def token_out(token: identity_pb2.Token) -> TokenOut:
    return TokenOut(
        id=token.id,
        name=token.name,
        created_at=moment(token.created_at),
        expires_at=moment_or_none(token.expires_at),
        last_used_at=moment_or_none(token.last_used_at),
    )


def role_name(role: int) -> RoleName:
    """The name of a role of the contract."""
    names: dict[Role, RoleName] = {Role.VIEWER: "viewer", Role.DEVELOPER: "developer", Role.OWNER: "owner"}
    return names[Role(role)]


def role_value(name: RoleName) -> identity_pb2.Role.ValueType:
    """The contract's number of a role."""
    return identity_pb2.Role.Value(f"ROLE_{name.upper()}")


def member_out(member: identity_pb2.Member) -> MemberOut:
    return MemberOut(user=user_out(member.user), role=role_name(member.role))


def audit_entry_out(entry: identity_pb2.AuditEntry) -> AuditEntryOut:
    return AuditEntryOut(
        id=entry.id,
        time=moment(entry.time),
        actor=entry.actor,
        action=entry.action,
        object_id=entry.object_id,
        detail=entry.detail,
    )
