"""Users, teams, tokens, the audit log."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TABLES = [
    """CREATE TABLE users (
        id uuid PRIMARY KEY,
        email text NOT NULL CHECK (email <> ''),
        name text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now()
    )""",
    "CREATE UNIQUE INDEX users_email ON users (lower(email))",
    """CREATE TABLE teams (
        id uuid PRIMARY KEY,
        name text NOT NULL UNIQUE,
        created_at timestamptz NOT NULL DEFAULT now()
    )""",
    """CREATE TABLE memberships (
        team_id uuid NOT NULL REFERENCES teams,
        user_id uuid NOT NULL REFERENCES users,
        role smallint NOT NULL CHECK (role BETWEEN 1 AND 3),
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (team_id, user_id)
    )""",
    "CREATE INDEX memberships_user ON memberships (user_id)",
    """CREATE TABLE tokens (
        id uuid PRIMARY KEY,
        user_id uuid NOT NULL REFERENCES users,
        name text NOT NULL,
        hash bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz,
        last_used_at timestamptz,
        revoked_at timestamptz
    )""",
    "CREATE INDEX tokens_user ON tokens (user_id)",
    # At most one row, ever: whoever inserts it makes the first owner. The team's owners run the platform.
    """CREATE TABLE setup (
        done boolean PRIMARY KEY DEFAULT true CHECK (done),
        user_id uuid NOT NULL REFERENCES users,
        team_id uuid NOT NULL REFERENCES teams DEFERRABLE INITIALLY DEFERRED,
        done_at timestamptz NOT NULL DEFAULT now()
    )""",
    """CREATE TABLE audit (
        position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id uuid NOT NULL UNIQUE,
        time timestamptz NOT NULL DEFAULT clock_timestamp(),
        team_id uuid NOT NULL,
        actor text NOT NULL,
        action text NOT NULL CHECK (action <> ''),
        object_id text NOT NULL,
        detail text NOT NULL
    )""",
    "CREATE INDEX audit_team ON audit (team_id, position DESC)",
]

# The lock on the team makes two owners who remove each other wait for one another; the count then sees the other's commit.
_KEEP_AN_OWNER = [
    """CREATE FUNCTION keep_an_owner() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM 1 FROM teams WHERE id = OLD.team_id FOR NO KEY UPDATE;
        IF NOT EXISTS (SELECT 1 FROM memberships WHERE team_id = OLD.team_id AND role = 3) THEN
            RAISE EXCEPTION 'a team keeps at least one owner' USING ERRCODE = 'check_violation';
        END IF;
        RETURN NULL;
    END $$""",
    """CREATE TRIGGER keep_an_owner AFTER DELETE OR UPDATE OF role, team_id ON memberships
    FOR EACH ROW WHEN (OLD.role = 3) EXECUTE FUNCTION keep_an_owner()""",
]
_APPEND_ONLY = [
    """CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'the audit log only grows' USING ERRCODE = 'restrict_violation';
    END $$""",
    """CREATE TRIGGER audit_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()""",
]


def upgrade() -> None:
    for statement in [*_TABLES, *_KEEP_AN_OWNER, *_APPEND_ONLY]:
        op.execute(statement)
