"""Chunks of lines, their catalogue, and how far each producer has arrived."""

from alembic import op

revision = "0001"
down_revision = None

_STATEMENTS = [
    """CREATE TABLE deployments (
        deployment_id uuid PRIMARY KEY,
        project_id text NOT NULL,
        team_id text NOT NULL,
        last_position bigint NOT NULL DEFAULT 0 CHECK (last_position >= 0),
        -- Lines up to here were removed because there were too many.
        kept_after bigint NOT NULL DEFAULT 0
    )""",
    """CREATE TABLE chunks (
        deployment_id uuid NOT NULL REFERENCES deployments,
        first_position bigint NOT NULL CHECK (first_position > 0),
        last_position bigint NOT NULL CHECK (last_position >= first_position),
        source smallint NOT NULL,
        instance integer NOT NULL,
        received_at timestamptz NOT NULL,
        first_time timestamptz NOT NULL,
        last_time timestamptz NOT NULL,
        payload bytea NOT NULL,
        PRIMARY KEY (deployment_id, last_position)
    )""",
    # The payload is compressed already: PostgreSQL need not try.
    "ALTER TABLE chunks ALTER COLUMN payload SET STORAGE EXTERNAL",
    "CREATE INDEX chunks_received ON chunks (received_at)",
    """CREATE TABLE streams (
        deployment_id uuid NOT NULL REFERENCES deployments,
        stream_id text NOT NULL,
        instance integer NOT NULL,
        high bigint NOT NULL,
        written_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (deployment_id, stream_id)
    )""",
    "CREATE INDEX streams_written ON streams (written_at)",
    """CREATE TABLE holes (
        deployment_id uuid NOT NULL,
        stream_id text NOT NULL,
        first bigint NOT NULL,
        last bigint NOT NULL CHECK (last >= first),
        noticed_at timestamptz NOT NULL,
        reported boolean NOT NULL,
        PRIMARY KEY (deployment_id, stream_id, first),
        FOREIGN KEY (deployment_id, stream_id) REFERENCES streams ON DELETE CASCADE
    )""",
    "CREATE INDEX holes_unreported ON holes (noticed_at) WHERE NOT reported",
]


def upgrade() -> None:
    """Makes the first tables."""
    for statement in _STATEMENTS:
        op.execute(statement)
