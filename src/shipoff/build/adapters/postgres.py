"""Attempts in PostgreSQL. Every write of an attempt is guarded by its state, every write of a session by its number."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from shipoff.build.domain import Attempt, Process, Ref, State
from shipoff.build.ports import Known, Outcome, Stored
from shipoff.build.reuse import Earlier
from shipoff.common.errors import Aborted, NotFound, Unauthenticated
from shipoff.common.outbox import Outbox
from shipoff.common.postgres import Database, Row, Transaction
from shipoff.common.streams import DEPLOYMENT_PROGRESS
from shipoff.common.telemetry import Context, current
from shipoff.contracts.build.v1 import build_pb2
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2

_THIS = "deployment_id = :deployment_id AND attempt = :attempt"
_HIGHEST = sa.text("SELECT max(attempt) FROM builds WHERE deployment_id = :deployment_id")
_LOCK = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:deployment_id, 0))")
_LOWER = sa.text("SELECT attempt, team_id FROM builds WHERE deployment_id = :deployment_id AND state = 'running'")
_INSERT = sa.text(
    "INSERT INTO builds (deployment_id, attempt, project_id, team_id, request, request_id, traceparent) "
    "VALUES (:deployment_id, :attempt, :project_id, :team_id, :request, :request_id, :traceparent)"
)
_CANCEL = sa.text(
    f"UPDATE builds SET cancel_reason = :reason, cancel_requested_at = clock_timestamp() "
    f"WHERE {_THIS} AND state = 'running' AND cancel_requested_at IS NULL"
)
_RUNNING = sa.text(f"SELECT 1 FROM builds WHERE {_THIS} AND state = 'running'")
_FIND = sa.text(f"SELECT *, coalesce(extract(epoch FROM last_seen_at), 0)::float8 AS seen FROM builds WHERE {_THIS}")
_UNFINISHED = sa.text(
    """SELECT deployment_id, attempt, project_id, team_id, request_id, traceparent, state, pid, process_started, cancel_reason,
        extract(epoch FROM clock_timestamp() - coalesce(last_seen_at, launched_at, created_at))::float8 AS unseen,
        -- The time a build may take begins with its builder's first word.
        coalesce(extract(epoch FROM deadline_at - CASE session WHEN 0 THEN launched_at ELSE clock_timestamp() END), 0)::float8
            AS remaining,
        extract(epoch FROM clock_timestamp() - cancel_requested_at)::float8 AS cancelling,
        coalesce(extract(epoch FROM clock_timestamp() - ended_at), 0)::float8 AS ended
    FROM builds WHERE cleaned_at IS NULL ORDER BY created_at"""
)
_LAUNCHED = sa.text(
    f"""UPDATE builds SET pid = :pid, process_started = :started, token_hash = :token_hash, launched_at = clock_timestamp(),
        last_seen_at = clock_timestamp(), deadline_at = clock_timestamp() + make_interval(secs => :timeout_s)
    WHERE {_THIS} AND state = 'running' AND pid IS NULL RETURNING team_id"""
)
_BY_TOKEN = sa.text("SELECT * FROM builds WHERE token_hash = :token_hash")
_OPEN = sa.text(
    """UPDATE builds SET session = session + 1, last_seen_at = clock_timestamp(),
        deadline_at = deadline_at + CASE session WHEN 0 THEN clock_timestamp() - launched_at ELSE interval '0' END
    WHERE token_hash = :token_hash RETURNING *"""
)
_TOUCH = sa.text(f"UPDATE builds SET last_seen_at = clock_timestamp() WHERE {_THIS} AND session = :session RETURNING *")
_LOGS = sa.text(
    f"""UPDATE builds SET log_sequence = greatest(log_sequence, :sequence), last_seen_at = clock_timestamp()
    WHERE {_THIS} AND session = :session"""
)
_PLAN = sa.text(
    f"""UPDATE builds SET plan = coalesce(plan, :plan), build_key = CASE WHEN plan IS NULL THEN :build_key ELSE build_key END,
        artifact = CASE WHEN plan IS NULL AND state = 'running' THEN CAST(:artifact AS bytea) ELSE artifact END
    WHERE {_THIS} RETURNING plan"""
)
# Fewer than an environment's releases are kept: an artifact of these is not on its way out.
_LAST = 5
_BEFORE = sa.text(
    """SELECT artifact, deployment_id FROM (SELECT * FROM builds WHERE project_id = CAST(:project_id AS uuid)
        AND state = 'succeeded' ORDER BY ended_at DESC LIMIT :last) AS newest
    WHERE build_key = :build_key ORDER BY ended_at DESC LIMIT 1"""
)
_ARTIFACT = sa.text(f"UPDATE builds SET artifact = :artifact WHERE {_THIS} AND state = 'running'")
_FINISH = sa.text(
    f"""UPDATE builds SET state = :state, outcome = :outcome, ended_at = clock_timestamp()
    WHERE {_THIS} AND state = 'running' RETURNING team_id"""
)
_CLEANED = sa.text(f"UPDATE builds SET cleaned_at = clock_timestamp() WHERE {_THIS} AND state <> 'running'")


def _key(ref: Ref) -> dict[str, object]:
    return {"deployment_id": ref.deployment_id, "attempt": ref.attempt}


class PostgresBuildStore:
    """Implements ports.BuildStore."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox

    async def start(self, request: build_pb2.StartBuildRequest) -> bool:
        """Adds the attempt and ends lower ones, with their events; whether it is new. Raises Aborted for a lower one."""
        ref = Ref(request.deployment_id, request.attempt)
        async with self._database.transaction() as tx:
            # Attempts of one deployment are started one after the other.
            await tx.execute(_LOCK, {"deployment_id": ref.deployment_id})
            highest = await tx.scalar(_HIGHEST, {"deployment_id": ref.deployment_id}) or 0
            if highest == ref.attempt:
                return False
            if highest > ref.attempt:
                raise Aborted(f"attempt {highest} of the deployment is known already", field="attempt")
            for row in await tx.all(_LOWER, {"deployment_id": ref.deployment_id}):
                await self._finish(tx, Ref(ref.deployment_id, row["attempt"]), _superseded(ref, row["attempt"]))
            values = {"project_id": request.project_id, "team_id": request.team_id, "request": request.SerializeToString()}
            ids = {"request_id": current().request_id, "traceparent": current().traceparent}
            await tx.execute(_INSERT, {**_key(ref), **values, **ids})
            return True

    async def ask_to_cancel(self, ref: Ref, reason: str) -> bool:
        """Records that a running attempt shall stop; whether there is one."""
        async with self._database.transaction() as tx:
            await tx.execute(_CANCEL, {**_key(ref), "reason": reason})
            return bool(await tx.scalar(_RUNNING, _key(ref)))

    async def find(self, ref: Ref) -> Known:
        """Raises NotFound."""
        row = await self._row(ref)
        return Known(State(row["state"]), _outcome(row), row["seen"])

    async def request_of(self, ref: Ref) -> build_pb2.StartBuildRequest:
        """What was asked for. Raises NotFound."""
        return build_pb2.StartBuildRequest.FromString((await self._row(ref))["request"])

    async def _row(self, ref: Ref) -> Row:
        row = await self._database.one_or_none(_FIND, _key(ref))
        if row is None:
            raise NotFound(f"there is no attempt {ref}")
        return row

    async def unfinished(self) -> Sequence[Attempt]:
        """Every attempt that runs, or has ended and is not cleaned up."""
        return [_attempt(row) for row in await self._database.all(_UNFINISHED)]

    async def launched(self, ref: Ref, process: Process, token_hash: bytes, timeout_s: int) -> bool:
        """Records a builder's process and begins its deadline; False when there is one, or the attempt has ended."""
        values = {"pid": process.pid, "started": process.started, "token_hash": token_hash, "timeout_s": timeout_s}
        async with self._database.transaction() as tx:
            team_id = await tx.scalar(_LAUNCHED, {**_key(ref), **values})
            if team_id is None:
                return False
            event = events_pb2.BuildStarted(deployment_id=ref.deployment_id, attempt=ref.attempt)
            await self._outbox.emit(tx, DEPLOYMENT_PROGRESS, event, tenant_id=str(team_id))
            return True

    async def by_token(self, token_hash: bytes) -> Stored:
        """The attempt of a token. Raises Unauthenticated."""
        return _stored(
            await self._database.one_or_none(_BY_TOKEN, {"token_hash": token_hash}), Unauthenticated("unknown token")
        )

    async def open_session(self, token_hash: bytes) -> Stored:
        """Begins a session, which ends every earlier one of the attempt. Raises Unauthenticated."""
        return _stored(await self._database.one_or_none(_OPEN, {"token_hash": token_hash}), Unauthenticated("unknown token"))

    async def touch(self, ref: Ref, session: int) -> Stored:
        """Records that the builder was heard of. Raises Aborted when a newer session is there."""
        row = await self._database.one_or_none(_TOUCH, {**_key(ref), "session": session})
        return _stored(row, Aborted("a newer session of this attempt is there"))

    async def logs_stored(self, ref: Ref, session: int, sequence: int) -> None:
        """Lines up to this sequence are on the stream. Raises Aborted when a newer session is there."""
        async with self._database.transaction() as tx:
            if not await tx.execute(_LOGS, {**_key(ref), "session": session, "sequence": sequence}):
                raise Aborted("a newer session of this attempt is there")

    async def plan_decided(self, ref: Ref, plan: build_pb2.PlanDecided, build_key: str) -> build_pb2.PlanDecided:
        """Keeps the first plan of the attempt with what its build is known by, and gives it."""
        artifact = plan.unchanged.SerializeToString() if plan.HasField("unchanged") else None
        values = {"plan": plan.SerializeToString(), "build_key": build_key, "artifact": artifact}
        async with self._database.transaction() as tx:
            kept = await tx.scalar(_PLAN, {**_key(ref), **values})
        return build_pb2.PlanDecided.FromString(kept)

    async def built_before(self, project_id: str, build_key: str) -> Earlier | None:
        """The newest of the project's last builds that were made of the same; None where there is none."""
        row = await self._database.one_or_none(_BEFORE, {"project_id": project_id, "build_key": build_key, "last": _LAST})
        if row is None:
            return None
        return Earlier(types_pb2.Artifact.FromString(row["artifact"]), str(row["deployment_id"]))

    async def artifact_stored(self, ref: Ref, artifact: types_pb2.Artifact) -> None:
        """The artifact is in the object store. Raises Aborted when the attempt has ended."""
        async with self._database.transaction() as tx:
            if not await tx.execute(_ARTIFACT, {**_key(ref), "artifact": artifact.SerializeToString()}):
                raise Aborted("the attempt has ended")

    async def finish(self, ref: Ref, outcome: Outcome) -> bool:
        """Ends a running attempt, its event in the same transaction; whether it was running."""
        async with self._database.transaction() as tx:
            return await self._finish(tx, ref, outcome)

    async def _finish(self, tx: Transaction, ref: Ref, outcome: Outcome) -> bool:
        succeeded = isinstance(outcome, events_pb2.BuildSucceeded)
        state = State.SUCCEEDED if succeeded else State.FAILED
        values = {"state": state.value, "outcome": outcome.SerializeToString()}
        team_id = await tx.scalar(_FINISH, {**_key(ref), **values})
        if team_id is None:
            return False
        await self._outbox.emit(tx, DEPLOYMENT_PROGRESS, outcome, tenant_id=str(team_id))
        return True

    async def cleaned(self, ref: Ref) -> None:
        """Nothing of the attempt is left."""
        async with self._database.transaction() as tx:
            await tx.execute(_CLEANED, _key(ref))


def _superseded(by: Ref, attempt: int) -> events_pb2.BuildFailed:
    return events_pb2.BuildFailed(
        deployment_id=by.deployment_id,
        attempt=attempt,
        failure=events_pb2.BUILD_FAILURE_CANCELLED,
        reason=f"attempt {by.attempt} took its place",
    )


def _outcome(row: Row) -> Outcome | None:
    if row["outcome"] is None:
        return None
    kind = events_pb2.BuildSucceeded if row["state"] == State.SUCCEEDED else events_pb2.BuildFailed
    return kind.FromString(row["outcome"])


def _context(row: Row) -> Context:
    return Context(row["request_id"], str(row["team_id"]), row["traceparent"])


def _attempt(row: Row) -> Attempt:
    process = None if row["pid"] is None else Process(row["pid"], row["process_started"])
    return Attempt(
        ref=Ref(str(row["deployment_id"]), row["attempt"]),
        project_id=str(row["project_id"]),
        state=State(row["state"]),
        process=process,
        unseen_s=row["unseen"],
        remaining_s=row["remaining"],
        cancelling_s=row["cancelling"],
        cancel_reason=row["cancel_reason"] or "",
        ended_s=row["ended"],
        context=_context(row),
    )


def _stored(row: Row | None, missing: Unauthenticated | Aborted) -> Stored:
    if row is None:
        raise missing
    return Stored(
        ref=Ref(str(row["deployment_id"]), row["attempt"]),
        project_id=str(row["project_id"]),
        team_id=str(row["team_id"]),
        state=State(row["state"]),
        request=build_pb2.StartBuildRequest.FromString(row["request"]),
        session=row["session"],
        log_sequence=row["log_sequence"],
        plan=None if row["plan"] is None else build_pb2.PlanDecided.FromString(row["plan"]),
        artifact=None if row["artifact"] is None else types_pb2.Artifact.FromString(row["artifact"]),
        cancel_reason=row["cancel_reason"],
        context=_context(row),
    )
