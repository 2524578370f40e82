"""The other side of the pipeline figure: the same four steps as Celery tasks, one PostgreSQL commit each.

Durable as ours is: a task is acknowledged after its commit (acks_late), and one whose worker died runs again. Each step
takes the row only from the state before it, so that a task that runs twice moves nothing twice.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os

import psycopg
from celery import Celery, chain

DATABASE = "peer"
DDL = """
CREATE TABLE deployments (id uuid PRIMARY KEY, repository text NOT NULL, commit text NOT NULL, state text NOT NULL);
CREATE TABLE transitions (
    deployment_id uuid NOT NULL REFERENCES deployments, state text NOT NULL,
    time timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (deployment_id, state)
);
"""

app = Celery("peer", broker=os.environ.get("BENCH_BROKER", ""))
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
)

_connections: list[psycopg.Connection] = []


def _database() -> psycopg.Connection:
    """The worker process's one connection: made after the fork."""
    if not _connections:
        _connections.append(psycopg.connect(os.environ["BENCH_DATABASE"]))
    return _connections[0]


def _move(deployment_id: str, before: str, after: str) -> str:
    with _database().transaction():
        moved = _database().execute(
            "UPDATE deployments SET state = %s WHERE id = %s AND state = %s", (after, deployment_id, before)
        )
        if moved.rowcount:
            _database().execute("INSERT INTO transitions (deployment_id, state) VALUES (%s, %s)", (deployment_id, after))
    return deployment_id


@app.task
def accept(deployment_id: str, body: str, signature: str) -> str:
    """Checks the delivery's signature and stores the deployment."""
    expected = hmac.new(os.environ["BENCH_SECRET"].encode(), body.encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(f"sha256={expected}", signature):
        raise ValueError("the signature is wrong")
    push = json.loads(body)
    row = (deployment_id, push["repository"]["clone_url"], push["after"])
    with _database().transaction():
        made = _database().execute("INSERT INTO deployments VALUES (%s, %s, %s, 'queued') ON CONFLICT DO NOTHING", row)
        if made.rowcount:
            _database().execute("INSERT INTO transitions (deployment_id, state) VALUES (%s, 'queued')", (deployment_id,))
    return deployment_id


@app.task
def building(deployment_id: str) -> str:
    """A build that does nothing."""
    return _move(deployment_id, "queued", "building")


@app.task
def provisioning(deployment_id: str) -> str:
    """A workload that is ready at once."""
    return _move(deployment_id, "building", "provisioning")


@app.task
def production(deployment_id: str) -> str:
    """Live."""
    return _move(deployment_id, "provisioning", "production")


def start(deployment_id: str, body: bytes, signature: str) -> None:
    """Sends one delivery on its way through the four steps."""
    steps = chain(accept.s(deployment_id, body.decode(), signature), building.s(), provisioning.s(), production.s())
    steps.apply_async()
