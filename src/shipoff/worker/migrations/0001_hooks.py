"""Hooks, deliveries, removals, inbox."""

from alembic import op

from shipoff.common.outbox import INBOX_DDL

revision = "0001"
down_revision = None

_DDL = [
    """CREATE TABLE hooks (
        id uuid PRIMARY KEY,
        project_id uuid NOT NULL,
        team_id uuid NOT NULL,
        url text NOT NULL,
        secret bytea NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        last_result text NOT NULL DEFAULT '',
        -- Whoever delivers to it holds it until then, by the database's clock.
        leased_until timestamptz NOT NULL DEFAULT '-infinity'
    )""",
    "CREATE INDEX hooks_project ON hooks (project_id, id)",
    """CREATE TABLE deliveries (
        id uuid PRIMARY KEY,
        hook_id uuid NOT NULL REFERENCES hooks ON DELETE CASCADE,
        event_id uuid NOT NULL,
        body bytea NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        due_at timestamptz NOT NULL DEFAULT now(),
        tries integer NOT NULL DEFAULT 0,
        finished_at timestamptz,
        result text NOT NULL DEFAULT '',
        UNIQUE (hook_id, event_id)
    )""",
    "CREATE INDEX deliveries_due ON deliveries (hook_id, due_at) WHERE finished_at IS NULL",
    "CREATE INDEX deliveries_finished ON deliveries (finished_at) WHERE finished_at IS NOT NULL",
    """CREATE TABLE removals (
        object_key text PRIMARY KEY,
        expired_at timestamptz NOT NULL,
        due_at timestamptz NOT NULL DEFAULT now(),
        tries integer NOT NULL DEFAULT 0
    )""",
]


def upgrade() -> None:
    for statement in [*_DDL, *INBOX_DDL]:
        op.execute(statement)
