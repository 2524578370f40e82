"""Workloads, their instances, and the outbox."""

from __future__ import annotations

from alembic import op

from shipoff.common.outbox import OUTBOX_DDL

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_WORKLOADS = """CREATE TABLE workloads (
    deployment_id uuid PRIMARY KEY,
    project_id uuid NOT NULL,
    project_name text NOT NULL,
    team_id uuid NOT NULL,
    environment text NOT NULL,
    artifact jsonb NOT NULL,
    processes jsonb NOT NULL,
    app_root text NOT NULL,
    variables bytea NOT NULL,
    replicas integer NOT NULL CHECK (replicas BETWEEN 1 AND 100),
    cpu_millis integer NOT NULL,
    memory_bytes bigint NOT NULL CHECK (memory_bytes > 0),
    health_path text NOT NULL,
    ready_timeout_s double precision NOT NULL,
    ready_deadline double precision NOT NULL,
    release_timeout_s double precision NOT NULL DEFAULT 0,
    released boolean NOT NULL DEFAULT false,
    hosts jsonb NOT NULL DEFAULT '[]',
    port integer NOT NULL DEFAULT 0 CHECK (port BETWEEN 0 AND 65535),
    schedules jsonb NOT NULL DEFAULT '[]',
    phase text NOT NULL CHECK (phase IN ('starting', 'ready', 'degraded', 'failed', 'stopping', 'stopped')),
    reason text NOT NULL,
    was_ready boolean NOT NULL,
    loop_told boolean NOT NULL,
    unready_since double precision NOT NULL DEFAULT 0,
    endpoints jsonb NOT NULL,
    revision bigint NOT NULL,
    paused boolean NOT NULL DEFAULT false,
    generation integer NOT NULL,
    last_incarnation integer NOT NULL,
    settled boolean NOT NULL,
    requested_by text NOT NULL,
    why text NOT NULL,
    request_id text NOT NULL,
    traceparent text NOT NULL,
    version bigint NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    CHECK (NOT settled OR phase IN ('failed', 'stopped'))
)"""
_INSTANCES = """CREATE TABLE instances (
    deployment_id uuid NOT NULL REFERENCES workloads ON DELETE CASCADE,
    process text NOT NULL,
    index integer NOT NULL,
    incarnation integer NOT NULL,
    state text NOT NULL CHECK (state IN ('waiting', 'starting', 'ready', 'stopping')),
    generation integer NOT NULL,
    host text NOT NULL,
    port integer NOT NULL CHECK (port BETWEEN 0 AND 65535),
    shared boolean NOT NULL,
    pid integer NOT NULL,
    process_started text NOT NULL,
    started_at double precision NOT NULL,
    ready_at double precision NOT NULL,
    due_at double precision NOT NULL,
    signalled boolean NOT NULL,
    misses integer NOT NULL,
    restarts integer NOT NULL,
    crashes integer NOT NULL,
    exits jsonb NOT NULL,
    last_exit text NOT NULL,
    last_words text NOT NULL,
    cause text NOT NULL,
    PRIMARY KEY (deployment_id, process, index, incarnation)
)"""
# What waits to be started may lose its port to another; what runs may not.
_ONE_OWNER = """CREATE UNIQUE INDEX instances_port ON instances (host, port)
    WHERE port > 0 AND state <> 'waiting' AND NOT shared"""
# Who of several runtimes does something that one of them does.
_LEASES = """CREATE TABLE leases (
    name text PRIMARY KEY,
    holder uuid NOT NULL,
    fence bigint NOT NULL,
    expires_at timestamptz NOT NULL
)"""
# How far each schedule is; of the runtime's clock, as everything about workloads.
_SCHEDULES = """CREATE TABLE schedules (
    project_id uuid NOT NULL,
    environment text NOT NULL,
    name text NOT NULL,
    seen_at double precision NOT NULL,
    started_at double precision NOT NULL DEFAULT 0,
    outcome text NOT NULL DEFAULT '',
    PRIMARY KEY (project_id, environment, name)
)"""
_SCHEDULED = "CREATE INDEX workloads_scheduled ON workloads (deployment_id) WHERE NOT settled AND schedules <> '[]'"
_TO_DO = "CREATE INDEX workloads_unsettled ON workloads (deployment_id) INCLUDE (version) WHERE NOT settled"

# How far the output of each pod has been sent.
_LOG_POSITIONS = "CREATE TABLE log_positions (pod_uid text PRIMARY KEY, position jsonb NOT NULL)"


def upgrade() -> None:
    tables = [_WORKLOADS, _INSTANCES, _ONE_OWNER, _TO_DO, _LEASES, _SCHEDULES, _SCHEDULED, _LOG_POSITIONS]
    for statement in [*tables, *OUTBOX_DDL]:
        op.execute(statement)


def downgrade() -> None:
    for table in ("outbox", "log_positions", "leases", "schedules", "instances", "workloads"):
        op.execute(f"DROP TABLE {table}")
