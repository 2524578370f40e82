"""The use cases of identity. Called by server.py."""

from __future__ import annotations

import binascii
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from shipoff.common.errors import InvalidInput, NotFound, PreconditionFailed, Unauthenticated
from shipoff.common.ids import new_id
from shipoff.identity.domain import (
    SECRET_BYTES,
    AuditEntry,
    Identity,
    Member,
    NewToken,
    Role,
    Team,
    Token,
    User,
    format_secret,
    hash_secret,
    same_secret,
)
from shipoff.identity.ports import Store

_PAGE = 50


@dataclass(frozen=True)
class Issued:
    """A new token's secret, and what is stored of it."""

    secret: str
    token: NewToken


class Accounts:
    """Who exists, who belongs where, and by which tokens they are known."""

    def __init__(
        self,
        store: Store,
        *,
        setup_token: str,
        token_days: int,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._store = store
        self._setup_token = setup_token
        self._token_days = token_days
        self._random = random

    def _issue(self, user_id: str, name: str, *, expires_at: datetime | None = None, forever: bool = False) -> Issued:
        secret = format_secret(self._random(SECRET_BYTES))
        lasts_days = None if forever else self._token_days
        token = NewToken(new_id(), user_id, name, hash_secret(secret), expires_at=expires_at, lasts_days=lasts_days)
        return Issued(secret, token)

    async def create_first_owner(self, setup_token: str, user: User, team: Team) -> str:
        """The secret of the first owner's token.

        That token does not expire: whoever lost it could not be let in by anybody else. Raises Unauthenticated when the
        setup token is wrong, PreconditionFailed when none is set or the platform has its owner.
        """
        if not self._setup_token:
            raise PreconditionFailed("no setup token is set", remedy="set SHIPOFF_SETUP_TOKEN and start identity again")
        if not same_secret(setup_token, self._setup_token):
            raise Unauthenticated(
                "the setup token is wrong",
                field="setup_token",
                remedy="read it from the platform's data folder: secrets/setup-token",
            )
        issued = self._issue(user.id, "first token", forever=True)
        await self._store.create_first_owner(user, team, issued.token)
        return issued.secret

    async def authenticate(self, secret: str) -> Identity:
        """Raises Unauthenticated, in the same words, for whatever is not a valid token."""
        identity = await self._store.authenticate(hash_secret(secret))
        if identity is None:
            raise Unauthenticated("the token is not valid", remedy="sign in again, or make a new token")
        return identity

    async def create_token(self, user_id: str, name: str, *, expires_at: datetime | None) -> tuple[Token, str]:
        """The token and its secret, which nobody can read again. Raises NotFound, Exhausted."""
        issued = self._issue(user_id, name, expires_at=expires_at)
        return await self._store.create_token(issued.token), issued.secret

    async def list_tokens(self, user_id: str) -> Sequence[Token]:
        """The tokens of a user that are neither revoked nor expired, oldest first."""
        return await self._store.list_tokens(user_id)

    async def revoke_token(self, *, user_id: str, token_id: str) -> None:
        """Raises NotFound when this user has no such token."""
        if not await self._store.revoke_token(user_id=user_id, token_id=token_id):
            raise NotFound(f"there is no token {token_id}")

    async def create_team(self, name: str, *, owner_user_id: str) -> Team:
        """Raises NotFound, AlreadyExists."""
        team = Team(new_id(), name)
        await self._store.create_team(team, owner_user_id=owner_user_id)
        return team

    async def add_member(self, team_id: str, email: str, role: Role) -> tuple[User, str]:
        """The member, and the secret of its first token where the user is new. Changes the role of who is a member already."""
        user = User(new_id(), email, email.partition("@")[0])
        issued = self._issue(user.id, "first token")
        member, made = await self._store.add_member(team_id, user, role=role, token=issued.token)
        return member, issued.secret if made else ""

    async def remove_member(self, *, team_id: str, user_id: str) -> None:
        """Raises NotFound when it is no member, PreconditionFailed for the last owner."""
        if not await self._store.remove_member(team_id=team_id, user_id=user_id):
            raise NotFound(f"{user_id} is not a member of the team")

    async def list_members(self, team_id: str) -> Sequence[Member]:
        """Owners first."""
        return await self._store.list_members(team_id)

    async def record(self, entry: AuditEntry) -> None:
        """Appends to the audit log, once for each id."""
        await self._store.record(entry)

    async def list_audit(self, team_id: str, *, page_size: int, page_token: str) -> tuple[Sequence[AuditEntry], str]:
        """A page, newest first, and the token of the next one. Raises InvalidInput for a token that is not ours."""
        limit = page_size or _PAGE
        found = await self._store.list_audit(team_id, before=_position(page_token), limit=limit + 1)
        page = found[:limit]
        next_token = _page_token(page[-1][0]) if len(found) > limit else ""
        return [entry for _, entry in page], next_token


def _page_token(position: int) -> str:
    return urlsafe_b64encode(str(position).encode()).decode()


def _position(page_token: str) -> int | None:
    if not page_token:
        return None
    try:
        position = int(urlsafe_b64decode(page_token.encode()))
    except (binascii.Error, ValueError) as error:
        raise InvalidInput("the cursor is not one of this list", field="page_token") from error
    if not 0 < position < 2**63:
        raise InvalidInput("the cursor is not one of this list", field="page_token")
    return position
