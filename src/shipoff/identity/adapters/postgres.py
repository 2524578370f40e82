"""Identity's store in PostgreSQL. Times are the database's own."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from shipoff.common.errors import AlreadyExists, Exhausted, NotFound, PreconditionFailed
from shipoff.common.postgres import Database, Row, Transaction
from shipoff.identity.domain import AuditEntry, Identity, Member, Membership, NewToken, Role, Team, Token, User

_MOST_TOKENS = 200

_CLAIM = sa.text(
    "INSERT INTO setup (user_id, team_id) VALUES (cast(:user_id AS uuid), cast(:team_id AS uuid)) ON CONFLICT DO NOTHING"
)
_ADD_USER = sa.text(
    "INSERT INTO users (id, email, name) VALUES (cast(:id AS uuid), :email, :name) ON CONFLICT (lower(email)) DO NOTHING"
)
_USER_BY_EMAIL = sa.text("SELECT id::text, email, name FROM users WHERE lower(email) = lower(:email)")
_USER_EXISTS = sa.text("SELECT true FROM users WHERE id = cast(:id AS uuid) FOR NO KEY UPDATE")
_ADD_TEAM = sa.text("INSERT INTO teams (id, name) VALUES (cast(:id AS uuid), :name) ON CONFLICT (name) DO NOTHING")
_TEAM_EXISTS = sa.text("SELECT true FROM teams WHERE id = cast(:id AS uuid) FOR NO KEY UPDATE")
_SET_MEMBER = sa.text(
    "INSERT INTO memberships (team_id, user_id, role) VALUES (cast(:team_id AS uuid), cast(:user_id AS uuid), :role)"
    " ON CONFLICT (team_id, user_id) DO UPDATE SET role = excluded.role WHERE memberships.role <> excluded.role"
)
_REMOVE_MEMBER = sa.text("DELETE FROM memberships WHERE team_id = cast(:team_id AS uuid) AND user_id = cast(:user_id AS uuid)")
_MEMBERS = sa.text(
    "SELECT u.id::text, u.email, u.name, m.role FROM memberships m JOIN users u ON u.id = m.user_id"
    " WHERE m.team_id = cast(:team_id AS uuid) ORDER BY m.role DESC, lower(u.email)"
)
_ADD_TOKEN = sa.text(
    "INSERT INTO tokens (id, user_id, name, hash, expires_at) VALUES"
    " (cast(:id AS uuid), cast(:user_id AS uuid), :name, :hash,"
    " coalesce(cast(:expires_at AS timestamptz), now() + make_interval(days => cast(:days AS integer))))"
    " RETURNING id::text, name, created_at, expires_at, last_used_at"
)
_VALID = "t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > clock_timestamp())"
_TOKENS = sa.text(
    "SELECT id::text, name, created_at, expires_at, last_used_at FROM tokens t"
    f" WHERE user_id = cast(:user_id AS uuid) AND {_VALID} ORDER BY created_at, id"
)
_COUNT_TOKENS = sa.text(f"SELECT count(*) FROM tokens t WHERE user_id = cast(:user_id AS uuid) AND {_VALID}")
_REVOKE = sa.text(
    "UPDATE tokens SET revoked_at = now()"
    " WHERE id = cast(:id AS uuid) AND user_id = cast(:user_id AS uuid) AND revoked_at IS NULL"
)
# One row a membership; one with empty team columns for a user without any.
_AUTHENTICATE = sa.text(
    "SELECT t.id::text AS token_id, u.id::text AS user_id, u.email, u.name, m.role, g.id::text AS team_id, g.name AS team_name,"
    " coalesce(t.last_used_at < now() - interval '1 minute', true) AS stale,"
    " (SELECT team_id::text FROM setup) AS platform_team_id"
    " FROM tokens t JOIN users u ON u.id = t.user_id"
    " LEFT JOIN memberships m ON m.user_id = u.id LEFT JOIN teams g ON g.id = m.team_id"
    f" WHERE t.hash = :hash AND {_VALID} ORDER BY g.name"
)
_USED = sa.text(
    "UPDATE tokens SET last_used_at = now()"
    " WHERE id = cast(:id AS uuid) AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')"
)
_RECORD = sa.text(
    "INSERT INTO audit (id, team_id, actor, action, object_id, detail)"
    " VALUES (cast(:id AS uuid), cast(:team_id AS uuid), :actor, :action, :object_id, :detail) ON CONFLICT (id) DO NOTHING"
)
_AUDIT = sa.text(
    "SELECT position, id::text, time, team_id::text, actor, action, object_id, detail FROM audit"
    " WHERE team_id = cast(:team_id AS uuid) AND position < coalesce(cast(:before AS bigint), 9223372036854775807)"
    " ORDER BY position DESC LIMIT :limit"
)


class PostgresStore:
    """Implements shipoff.identity.ports.Store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create_first_owner(self, user: User, team: Team, token: NewToken) -> None:
        async with self._database.transaction() as tx:
            await tx.execute(_ADD_USER, vars(user))
            # A concurrent call waits here for the first one to commit, and then inserts nothing.
            if not await _claim(tx, user.id, team.id):
                raise PreconditionFailed("the platform has its owner already", remedy="ask an owner to add you to a team")
            await tx.execute(_ADD_TEAM, vars(team))
            await tx.execute(_SET_MEMBER, {"team_id": team.id, "user_id": user.id, "role": int(Role.OWNER)})
            await _add_token(tx, token)

    async def authenticate(self, secret_hash: bytes) -> Identity | None:
        rows = await self._database.all(_AUTHENTICATE, {"hash": secret_hash})
        if not rows:
            return None
        if rows[0]["stale"]:
            async with self._database.transaction() as tx:
                await tx.execute(_USED, {"id": rows[0]["token_id"]})
        return _identity(rows)

    async def create_token(self, token: NewToken) -> Token:
        async with self._database.transaction() as tx:
            await _require_user(tx, token.user_id)
            if await tx.scalar(_COUNT_TOKENS, {"user_id": token.user_id}) >= _MOST_TOKENS:
                raise Exhausted(
                    f"a user has at most {_MOST_TOKENS} tokens", retry_after_s=3600, remedy="revoke those that are not used"
                )
            return await _add_token(tx, token)

    async def list_tokens(self, user_id: str) -> Sequence[Token]:
        return [Token(**row) for row in await self._database.all(_TOKENS, {"user_id": user_id})]

    async def revoke_token(self, *, user_id: str, token_id: str) -> bool:
        async with self._database.transaction() as tx:
            return await tx.execute(_REVOKE, {"id": token_id, "user_id": user_id}) == 1

    async def create_team(self, team: Team, *, owner_user_id: str) -> None:
        async with self._database.transaction() as tx:
            await _require_user(tx, owner_user_id)
            if not await tx.execute(_ADD_TEAM, vars(team)):
                raise AlreadyExists(f"the team name {team.name} is taken", field="name")
            await tx.execute(_SET_MEMBER, {"team_id": team.id, "user_id": owner_user_id, "role": int(Role.OWNER)})

    async def add_member(self, team_id: str, user: User, *, role: Role, token: NewToken) -> tuple[User, bool]:
        async with self._database.transaction() as tx:
            if not await tx.scalar(_TEAM_EXISTS, {"id": team_id}):
                raise NotFound(f"there is no team {team_id}")
            made = await tx.execute(_ADD_USER, vars(user)) == 1
            row = await tx.one_or_none(_USER_BY_EMAIL, {"email": user.email})
            member = User(**row) if row else user
            await tx.execute(_SET_MEMBER, {"team_id": team_id, "user_id": member.id, "role": int(role)})
            if made:
                await _add_token(tx, token)
            return member, made

    async def remove_member(self, *, team_id: str, user_id: str) -> bool:
        async with self._database.transaction() as tx:
            return await tx.execute(_REMOVE_MEMBER, {"team_id": team_id, "user_id": user_id}) == 1

    async def list_members(self, team_id: str) -> Sequence[Member]:
        rows = await self._database.all(_MEMBERS, {"team_id": team_id})
        return [Member(User(row["id"], row["email"], row["name"]), Role(row["role"])) for row in rows]

    async def record(self, entry: AuditEntry) -> None:
        async with self._database.transaction() as tx:
            await tx.execute(_RECORD, vars(entry))

    async def list_audit(self, team_id: str, *, before: int | None, limit: int) -> Sequence[tuple[int, AuditEntry]]:
        rows = await self._database.all(_AUDIT, {"team_id": team_id, "before": before, "limit": limit})
        return [
            (row["position"], AuditEntry(**{name: value for name, value in row.items() if name != "position"})) for row in rows
        ]


async def _claim(tx: Transaction, user_id: str, team_id: str) -> bool:
    return await tx.execute(_CLAIM, {"user_id": user_id, "team_id": team_id}) == 1


async def _require_user(tx: Transaction, user_id: str) -> None:
    if not await tx.scalar(_USER_EXISTS, {"id": user_id}):
        raise NotFound(f"there is no user {user_id}")


async def _add_token(tx: Transaction, token: NewToken) -> Token:
    row = await tx.one_or_none(
        _ADD_TOKEN,
        {
            "id": token.id,
            "user_id": token.user_id,
            "name": token.name,
            "hash": token.hash,
            "expires_at": token.expires_at,
            "days": token.lasts_days,
        },
    )
    assert row is not None
    return Token(**row)


def _identity(rows: Sequence[Row]) -> Identity:
    first = rows[0]
    user = User(first["user_id"], first["email"], first["name"])
    memberships = tuple(Membership(Team(row["team_id"], row["team_name"]), Role(row["role"])) for row in rows if row["team_id"])
    return Identity(user, memberships, first["token_id"], first["platform_team_id"] or "")
