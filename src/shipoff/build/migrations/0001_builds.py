"""Builds and their attempts."""

from __future__ import annotations

from alembic import op

from shipoff.common.outbox import INBOX_DDL, OUTBOX_DDL

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TABLES = [
    """CREATE TABLE builds (
        deployment_id uuid NOT NULL,
        attempt bigint NOT NULL CHECK (attempt > 0),
        project_id uuid NOT NULL,
        team_id uuid NOT NULL,
        -- StartBuildRequest: all facts of the request.
        request bytea NOT NULL,
        -- The ids of the call that started it.
        request_id text NOT NULL,
        traceparent text NOT NULL,
        state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'succeeded', 'failed')),
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        -- SHA-256 of the token that the builder proves itself with.
        token_hash bytea UNIQUE CHECK (octet_length(token_hash) = 32),
        pid integer,
        process_started text,
        launched_at timestamptz,
        deadline_at timestamptz,
        last_seen_at timestamptz,
        -- Counts the builder's sessions: the fencing token of what they write.
        session bigint NOT NULL DEFAULT 0,
        log_sequence bigint NOT NULL DEFAULT 0,
        -- PlanDecided, Artifact.
        plan bytea,
        artifact bytea,
        -- What it is made of, in a digest; empty where that cannot be said.
        build_key text NOT NULL DEFAULT '',
        cancel_reason text,
        cancel_requested_at timestamptz,
        -- BuildSucceeded or BuildFailed, by state.
        outcome bytea,
        ended_at timestamptz,
        cleaned_at timestamptz,
        PRIMARY KEY (deployment_id, attempt),
        CHECK ((pid IS NULL) = (process_started IS NULL) AND (pid IS NULL) = (launched_at IS NULL)),
        CHECK ((state = 'running') = (outcome IS NULL) AND (state = 'running') = (ended_at IS NULL)),
        CHECK (state <> 'succeeded' OR artifact IS NOT NULL)
    )""",
    # At most one attempt of a deployment runs.
    "CREATE UNIQUE INDEX builds_running ON builds (deployment_id) WHERE state = 'running'",
    "CREATE INDEX builds_succeeded ON builds (project_id, ended_at DESC) WHERE state = 'succeeded'",
    "CREATE INDEX builds_unfinished ON builds (created_at) WHERE cleaned_at IS NULL",
]


def upgrade() -> None:
    """Creates the tables."""
    for statement in [*_TABLES, *OUTBOX_DDL, *INBOX_DDL]:
        op.execute(statement)
