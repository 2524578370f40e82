"""Deployments, transitions, instructions, the budget."""

from alembic import op

from shipoff.common.outbox import INBOX_DDL, OUTBOX_DDL

revision = "0001"
down_revision = None

DDL = [
    """CREATE TABLE deployments (
        id uuid PRIMARY KEY,
        project_id uuid NOT NULL,
        project_name text NOT NULL,
        team_id uuid NOT NULL,
        environment text NOT NULL,
        number bigint NOT NULL CHECK (number > 0),
        accepted_at timestamptz NOT NULL,
        state text NOT NULL
            CHECK (state IN ('queued', 'building', 'provisioning', 'production', 'failed', 'inactive')),
        version bigint NOT NULL DEFAULT 1,
        attempt bigint NOT NULL DEFAULT 0,
        static boolean NOT NULL DEFAULT false,
        request bytea NOT NULL,
        artifact bytea NOT NULL DEFAULT '',
        artifact_key text NOT NULL DEFAULT '',
        artifact_expired boolean NOT NULL DEFAULT false,
        plan bytea NOT NULL DEFAULT '',
        commit text NOT NULL DEFAULT '',
        branch text NOT NULL DEFAULT '',
        commit_message text NOT NULL DEFAULT '',
        reason text NOT NULL DEFAULT '',
        broke text NOT NULL DEFAULT '',
        trigger smallint NOT NULL,
        requested_by text NOT NULL,
        origin_id uuid REFERENCES deployments (id),
        revision bigint NOT NULL DEFAULT 0,
        endpoints jsonb NOT NULL DEFAULT '[]',
        created_at timestamptz NOT NULL DEFAULT now(),
        changed_at timestamptz NOT NULL DEFAULT now(),
        deadline_at timestamptz,
        checked_at timestamptz NOT NULL DEFAULT now(),
        -- How long each state may last, in seconds.
        queued_limit_s double precision NOT NULL,
        building_limit_s double precision NOT NULL,
        provisioning_limit_s double precision NOT NULL,
        releasing_limit_s double precision NOT NULL DEFAULT 0,
        -- What its build may use; which step ran out of that; it waits for more.
        slot_cpu_millis integer NOT NULL DEFAULT 0,
        slot_memory_bytes bigint NOT NULL DEFAULT 0,
        out_of_memory text NOT NULL DEFAULT '',
        awaits_slot boolean NOT NULL DEFAULT false CHECK (NOT awaits_slot OR state = 'building'),
        -- Since when its build has its slot.
        slot_at timestamptz,
        replicas integer NOT NULL DEFAULT 0,
        paused boolean NOT NULL DEFAULT false,
        -- Of the request that it was accepted with.
        request_id text NOT NULL DEFAULT '',
        traceparent text NOT NULL DEFAULT '',
        UNIQUE (project_id, number),
        -- Serving or being put up without an artifact cannot be.
        CHECK (state NOT IN ('provisioning', 'production') OR artifact <> '')
    )""",
    "CREATE UNIQUE INDEX one_production ON deployments (project_id, environment) WHERE state = 'production'",
    "CREATE UNIQUE INDEX one_build ON deployments (project_id, environment) WHERE state = 'building'",
    "CREATE INDEX on_the_way ON deployments (state, accepted_at) WHERE state IN ('queued', 'building', 'provisioning')",
    "CREATE INDEX unsettled ON deployments (project_id) WHERE state IN ('queued', 'building', 'provisioning', 'production')",
    "CREATE INDEX of_project ON deployments (project_id, accepted_at DESC)",
    "CREATE INDEX kept_artifacts ON deployments (artifact_key) WHERE artifact_key <> '' AND NOT artifact_expired",
    """CREATE INDEX kept_releases ON deployments (project_id, environment, accepted_at DESC, id DESC)
        WHERE artifact_key <> '' AND NOT artifact_expired""",
    """CREATE TABLE transitions (
        deployment_id uuid NOT NULL REFERENCES deployments (id),
        version bigint NOT NULL,
        from_state text NOT NULL,
        to_state text NOT NULL,
        reason text NOT NULL,
        actor text NOT NULL,
        time timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (deployment_id, version),
        CHECK ((from_state, to_state) IN (
            ('queued', 'building'), ('queued', 'provisioning'), ('queued', 'failed'), ('queued', 'inactive'),
            ('building', 'provisioning'), ('building', 'failed'), ('building', 'inactive'),
            ('provisioning', 'production'), ('provisioning', 'failed'), ('provisioning', 'inactive'),
            ('production', 'inactive'), ('production', 'failed')
        ))
    )""",
    """CREATE TABLE retries (
        deployment_id uuid NOT NULL REFERENCES deployments (id),
        attempt bigint NOT NULL,
        reason text NOT NULL,
        time timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (deployment_id, attempt)
    )""",
    "CREATE TABLE project_numbers (project_id uuid PRIMARY KEY, last bigint NOT NULL)",
    """CREATE TABLE environments (
        project_id uuid NOT NULL,
        environment text NOT NULL,
        -- The highest deployment number that was called off after it may have been routed.
        floor bigint NOT NULL DEFAULT 0,
        generation bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (project_id, environment)
    )""",
    """CREATE TABLE instructions (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        deployment_id uuid NOT NULL REFERENCES deployments (id),
        instruction text NOT NULL,
        attempt bigint NOT NULL,
        tries integer NOT NULL DEFAULT 0,
        due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        lease_token bigint NOT NULL DEFAULT 0,
        lease_until timestamptz
    )""",
    "CREATE INDEX instructions_due ON instructions (due_at)",
    "CREATE INDEX instructions_of ON instructions (deployment_id)",
    """CREATE TABLE budget (
        one boolean PRIMARY KEY DEFAULT true CHECK (one),
        cpu_millis integer NOT NULL DEFAULT 0,
        memory_bytes bigint NOT NULL DEFAULT 0,
        cpu_millis_reserved integer NOT NULL DEFAULT 0 CHECK (cpu_millis_reserved >= 0),
        memory_bytes_reserved bigint NOT NULL DEFAULT 0 CHECK (memory_bytes_reserved >= 0),
        -- What apps hold of that: builds will not make room there.
        cpu_millis_lasting integer NOT NULL DEFAULT 0 CHECK (cpu_millis_lasting BETWEEN 0 AND cpu_millis_reserved),
        memory_bytes_lasting bigint NOT NULL DEFAULT 0
            CHECK (memory_bytes_lasting BETWEEN 0 AND memory_bytes_reserved),
        -- Apart from the machine that builds: the cluster, where apps run on one.
        cluster_cpu_millis bigint NOT NULL DEFAULT 0,
        cluster_memory_bytes bigint NOT NULL DEFAULT 0,
        cluster_cpu_millis_reserved bigint NOT NULL DEFAULT 0 CHECK (cluster_cpu_millis_reserved >= 0),
        cluster_memory_bytes_reserved bigint NOT NULL DEFAULT 0 CHECK (cluster_memory_bytes_reserved >= 0),
        cluster_cpu_millis_lasting bigint NOT NULL DEFAULT 0
            CHECK (cluster_cpu_millis_lasting BETWEEN 0 AND cluster_cpu_millis_reserved),
        cluster_memory_bytes_lasting bigint NOT NULL DEFAULT 0
            CHECK (cluster_memory_bytes_lasting BETWEEN 0 AND cluster_memory_bytes_reserved),
        CHECK (cpu_millis_reserved <= cpu_millis AND memory_bytes_reserved <= memory_bytes
            AND cluster_cpu_millis_reserved <= cluster_cpu_millis AND cluster_memory_bytes_reserved <= cluster_memory_bytes)
    )""",
    "INSERT INTO budget DEFAULT VALUES",
    """CREATE TABLE reservations (
        deployment_id uuid PRIMARY KEY REFERENCES deployments (id),
        cpu_millis integer NOT NULL,
        memory_bytes bigint NOT NULL,
        -- Held by an app, not by a build.
        lasting boolean NOT NULL,
        cluster_cpu_millis bigint NOT NULL DEFAULT 0,
        cluster_memory_bytes bigint NOT NULL DEFAULT 0
    )""",
    # What the last builds of each project used at their peak.
    """CREATE TABLE build_usage (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        deployment_id uuid NOT NULL REFERENCES deployments (id),
        attempt bigint NOT NULL,
        project_id uuid NOT NULL,
        succeeded boolean NOT NULL,
        cpu_millis integer NOT NULL,
        memory_bytes bigint NOT NULL,
        wall_s double precision NOT NULL,
        UNIQUE (deployment_id, attempt)
    )""",
    "CREATE INDEX build_usage_of ON build_usage (project_id, id DESC)",
    # Whose turn it is: see admission.py.
    "CREATE TABLE turns (team_id uuid PRIMARY KEY, passed double precision NOT NULL)",
    "CREATE TABLE turn_clock (one boolean PRIMARY KEY DEFAULT true CHECK (one), passed double precision NOT NULL DEFAULT 0)",
    "INSERT INTO turn_clock DEFAULT VALUES",
]


def upgrade() -> None:
    for statement in [*DDL, *OUTBOX_DDL, *INBOX_DDL]:
        op.execute(statement)
