"""What identity needs from outside: a store that does each of these in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from shipoff.identity.domain import AuditEntry, Identity, Member, NewToken, Role, Team, Token, User


class Store(Protocol):
    """Every method is one transaction. Raises TemporaryError when the database is away."""

    async def create_first_owner(self, user: User, team: Team, token: NewToken) -> None:
        """Raises PreconditionFailed when there is an owner already, however close the race."""

    async def authenticate(self, secret_hash: bytes) -> Identity | None:
        """Who the token belongs to, or None when it is unknown, revoked or expired. Notes the use once a minute."""

    async def create_token(self, token: NewToken) -> Token:
        """Raises NotFound when there is no such user, Exhausted when it has too many."""

    async def list_tokens(self, user_id: str) -> Sequence[Token]: ...

    async def revoke_token(self, *, user_id: str, token_id: str) -> bool:
        """Whether this user had such a token."""

    async def create_team(self, team: Team, *, owner_user_id: str) -> None:
        """Raises NotFound when there is no such user, AlreadyExists when the name is taken."""

    async def add_member(self, team_id: str, user: User, *, role: Role, token: NewToken) -> tuple[User, bool]:
        """The member, and whether the user was made by this call: only then is the token stored.

        Raises NotFound when there is no such team, PreconditionFailed when it would lose its last owner.
        """

    async def remove_member(self, *, team_id: str, user_id: str) -> bool:
        """Whether it was a member. Raises PreconditionFailed for the last owner."""

    async def list_members(self, team_id: str) -> Sequence[Member]: ...

    async def record(self, entry: AuditEntry) -> None:
        """Appends; the same id again does nothing."""

    async def list_audit(self, team_id: str, *, before: int | None, limit: int) -> Sequence[tuple[int, AuditEntry]]:
        """Newest first, each with its position."""
