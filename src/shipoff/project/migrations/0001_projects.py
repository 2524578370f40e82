"""Projects, environments, variables, sources, deployment requests, webhook deliveries."""

from __future__ import annotations

from alembic import op

from shipoff.common.outbox import OUTBOX_DDL

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TABLES = [
    """CREATE TABLE projects (
        id uuid PRIMARY KEY,
        team_id uuid NOT NULL,
        name text NOT NULL CHECK (name <> ''),
        build jsonb NOT NULL,
        run jsonb NOT NULL,
        repository_url text NOT NULL DEFAULT '',
        repository_branch text NOT NULL DEFAULT '',
        -- host/owner/name, by which a push finds its projects.
        repository_key text NOT NULL DEFAULT '',
        data_key bytea NOT NULL,
        configuration_version bigint NOT NULL CHECK (configuration_version > 0),
        created_at timestamptz NOT NULL DEFAULT now(),
        deleted_at timestamptz,
        deleted_by text
    )""",
    "CREATE UNIQUE INDEX projects_name ON projects (name) WHERE deleted_at IS NULL",
    "CREATE INDEX projects_team ON projects (team_id, name) WHERE deleted_at IS NULL",
    "CREATE INDEX projects_repository ON projects (repository_key) WHERE deleted_at IS NULL AND repository_key <> ''",
    # The label is the first of the environment's host: one live project has it, whatever the environment is called.
    """CREATE TABLE environments (
        project_id uuid NOT NULL REFERENCES projects,
        name text NOT NULL,
        label text NOT NULL UNIQUE,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (project_id, name)
    )""",
    # One row a version; sealed null: the variable was unset.
    """CREATE TABLE variables (
        project_id uuid NOT NULL REFERENCES projects,
        environment text NOT NULL,
        name text NOT NULL,
        version bigint NOT NULL CHECK (version > 0),
        sealed bytea,
        changed_by text NOT NULL,
        changed_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (project_id, environment, name, version)
    )""",
    """CREATE TABLE sources (
        project_id uuid NOT NULL REFERENCES projects,
        digest text NOT NULL CHECK (digest ~ '^sha256:[0-9a-f]{64}$'),
        object_key text NOT NULL,
        size_bytes bigint NOT NULL CHECK (size_bytes > 0),
        uploaded_at timestamptz NOT NULL DEFAULT now(),
        used_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (project_id, digest)
    )""",
    "CREATE INDEX sources_used ON sources (used_at)",
    # request: the DeploymentRequested message with the configuration snapshot in it.
    """CREATE TABLE deployment_requests (
        deployment_id uuid PRIMARY KEY,
        project_id uuid NOT NULL REFERENCES projects,
        environment text NOT NULL,
        idempotency_key text,
        request bytea NOT NULL,
        requested_at timestamptz NOT NULL DEFAULT now(),
        UNIQUE (project_id, idempotency_key)
    )""",
    """CREATE TABLE deliveries (
        provider text NOT NULL,
        delivery_id text NOT NULL,
        event text NOT NULL,
        deployment_ids uuid[] NOT NULL DEFAULT '{}',
        ignored_because text NOT NULL DEFAULT '',
        received_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (provider, delivery_id)
    )""",
    # The newest push of each branch: an older one that arrives later changes nothing.
    """CREATE TABLE pushes (
        project_id uuid NOT NULL REFERENCES projects,
        environment text NOT NULL,
        branch text NOT NULL,
        pushed_at timestamptz NOT NULL,
        commit text NOT NULL,
        before text NOT NULL,
        PRIMARY KEY (project_id, environment, branch)
    )""",
]


def upgrade() -> None:
    for statement in [*_TABLES, *OUTBOX_DDL]:
        op.execute(statement)
