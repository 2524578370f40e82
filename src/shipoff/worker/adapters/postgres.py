"""Hooks, deliveries and removals in PostgreSQL. Leases run by the database's clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import sqlalchemy as sa

from shipoff.common.errors import NotFound, PreconditionFailed
from shipoff.common.ids import new_id
from shipoff.common.postgres import Database, Row, Transaction
from shipoff.worker.domain import Claim, Hook, NewHook, Removal, Transition, payload
from shipoff.worker.transitions import Verdict

# Counting and adding under one lock: two at once cannot pass the limit together.
_LOCK_PROJECT = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:project_id, 0))")
_COUNT_HOOKS = sa.text("SELECT count(*) FROM hooks WHERE project_id = :project_id")
_ADD_HOOK = sa.text(
    "INSERT INTO hooks (id, project_id, team_id, url, secret) VALUES (:id, :project_id, :team_id, :url, :secret) "
    "RETURNING id, project_id, url, created_at, last_result"
)
_LIST_HOOKS = sa.text(
    "SELECT id, project_id, url, created_at, last_result FROM hooks WHERE project_id = :project_id ORDER BY id"
)
_REMOVE_HOOK = sa.text("DELETE FROM hooks WHERE id = :id AND project_id = :project_id")

# FOR KEY SHARE: a hook that is being deleted is waited for, and then not there.
_HOOKS_OF = sa.text("SELECT id FROM hooks WHERE project_id = :project_id ORDER BY id FOR KEY SHARE")
_ADD_DELIVERY = sa.text(
    "INSERT INTO deliveries (id, hook_id, event_id, body) VALUES (:id, :hook_id, :event_id, :body) ON CONFLICT DO NOTHING"
)

_LEASE_HOOKS = sa.text(
    """UPDATE hooks SET leased_until = clock_timestamp() + make_interval(secs => :lease_s)
    WHERE id IN (
        SELECT h.id FROM hooks h
        WHERE h.leased_until <= clock_timestamp() AND EXISTS (
            SELECT 1 FROM deliveries d WHERE d.hook_id = h.id AND d.finished_at IS NULL AND d.due_at <= clock_timestamp()
        )
        ORDER BY h.leased_until LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    RETURNING id, url, secret, leased_until"""
)
_TAKE_OLDEST = sa.text(
    """UPDATE deliveries SET tries = tries + 1 WHERE id = (
        SELECT id FROM deliveries WHERE hook_id = :hook_id AND finished_at IS NULL AND due_at <= clock_timestamp()
        ORDER BY due_at, id LIMIT 1
    )
    RETURNING id, body, tries"""
)
_RELEASE_HOOK = sa.text(
    "UPDATE hooks SET leased_until = clock_timestamp(), last_result = :result"
    " WHERE id = :hook_id AND leased_until = :leased_until"
)
_FINISH = sa.text("UPDATE deliveries SET finished_at = clock_timestamp(), result = :result WHERE id = :id")
_POSTPONE = sa.text(
    "UPDATE deliveries SET due_at = clock_timestamp() + make_interval(secs => :retry_in_s), result = :result WHERE id = :id"
)
_FORGET_FINISHED = sa.text("DELETE FROM deliveries WHERE finished_at < now() - make_interval(days => :days)")

_ADD_REMOVAL = sa.text(
    "INSERT INTO removals (object_key, expired_at) VALUES (:object_key, :expired_at)"
    " ON CONFLICT (object_key) DO UPDATE SET expired_at = greatest(removals.expired_at, excluded.expired_at)"
)
# Due again later each time, up to an hour, whether the try fails or its process dies.
_DUE_REMOVALS = sa.text(
    """UPDATE removals SET tries = tries + 1, due_at = clock_timestamp() + make_interval(secs => least(30 * 2 ^ tries, 3600))
    WHERE object_key IN (
        SELECT object_key FROM removals WHERE due_at <= clock_timestamp() ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    RETURNING object_key, expired_at, tries"""
)
_SETTLED = sa.text("DELETE FROM removals WHERE object_key = :object_key")


class PostgresStore:
    """Implements Hooks, Deliveries and Removals. `changed` is called after a commit that made something due."""

    def __init__(self, database: Database, *, lease_s: float, changed: Callable[[], None]) -> None:
        self._database = database
        self._lease_s = lease_s
        self._changed = changed

    async def add(self, hook: NewHook, *, at_most: int) -> Hook:
        """Stores a hook. Raises PreconditionFailed when the project has `at_most` of them."""
        async with self._database.transaction() as tx:
            await tx.execute(_LOCK_PROJECT, {"project_id": hook.project_id})
            if await tx.scalar(_COUNT_HOOKS, {"project_id": hook.project_id}) >= at_most:
                raise PreconditionFailed(f"the project has {at_most} hooks already", field="url", remedy="remove one first")
            row = await tx.one_or_none(
                _ADD_HOOK,
                {
                    "id": hook.id,
                    "project_id": hook.project_id,
                    "team_id": hook.team_id,
                    "url": hook.url,
                    "secret": hook.sealed_secret,
                },
            )
        assert row is not None  # INSERT … RETURNING gives its row
        return _hook(row)

    async def of_project(self, project_id: str) -> list[Hook]:
        """A project's hooks, oldest first."""
        return [_hook(row) for row in await self._database.all(_LIST_HOOKS, {"project_id": project_id})]

    async def remove(self, project_id: str, hook_id: str) -> None:
        """Removes a hook with its deliveries. Raises NotFound."""
        async with self._database.transaction() as tx:
            if not await tx.execute(_REMOVE_HOOK, {"id": hook_id, "project_id": project_id}):
                raise NotFound("the project has no such hook", field="hook_id")

    def recording(self, tx: Transaction) -> PostgresRecording:
        """What an event writes in its transaction."""
        return PostgresRecording(tx, self._changed)

    async def claim(self, limit: int) -> list[Claim]:
        """The oldest due delivery of up to `limit` hooks that nobody works on; this counts as a try."""
        claims = []
        async with self._database.transaction() as tx:
            for hook in await tx.all(_LEASE_HOOKS, {"lease_s": self._lease_s, "limit": limit}):
                delivery = await tx.one_or_none(_TAKE_OLDEST, {"hook_id": hook["id"]})
                if delivery is not None:
                    claims.append(_claim(hook, delivery))
        return claims

    async def record(self, claim: Claim, verdict: Verdict) -> bool:
        """Writes down what became of it and gives the hook free; False when the lease was lost and nothing was written."""
        lease = {"hook_id": claim.hook_id, "leased_until": claim.leased_until, "result": verdict.result}
        async with self._database.transaction() as tx:
            if not await tx.execute(_RELEASE_HOOK, lease):
                return False
            written = {"id": claim.delivery_id, "result": verdict.result}
            if verdict.retry_in_s is None:
                await tx.execute(_FINISH, written)
            else:
                await tx.execute(_POSTPONE, {**written, "retry_in_s": verdict.retry_in_s})
        return True

    async def forget_finished(self, days: int) -> None:
        """Removes deliveries that were over so many days ago."""
        async with self._database.transaction() as tx:
            await tx.execute(_FORGET_FINISHED, {"days": days})

    async def due_removals(self, limit: int) -> list[Removal]:
        """Those that are due; they are due again later unless they are done."""
        rows = await self._database.all(_DUE_REMOVALS, {"limit": limit})
        return [Removal(row["object_key"], row["expired_at"], row["tries"]) for row in rows]

    async def settled(self, object_key: str) -> None:
        """Nothing is left to do about it."""
        async with self._database.transaction() as tx:
            await tx.execute(_SETTLED, {"object_key": object_key})


class PostgresRecording:
    """Implements Recording within one transaction."""

    def __init__(self, tx: Transaction, changed: Callable[[], None]) -> None:
        self._tx = tx
        self._changed = changed

    async def add_deliveries(self, transition: Transition) -> None:
        """One delivery to each hook of the project; nothing where the event has one already."""
        for hook in await self._tx.all(_HOOKS_OF, {"project_id": transition.project_id}):
            delivery_id = new_id()
            row = {"id": delivery_id, "hook_id": hook["id"], "event_id": transition.event_id}
            await self._tx.execute(_ADD_DELIVERY, {**row, "body": payload(transition, delivery_id)})
            self._tx.after_commit(self._changed)

    async def add_removal(self, object_key: str, expired_at: datetime) -> None:
        """An object to be removed; where that is noted already, the later time counts."""
        await self._tx.execute(_ADD_REMOVAL, {"object_key": object_key, "expired_at": expired_at})
        self._tx.after_commit(self._changed)


def _hook(row: Row) -> Hook:
    return Hook(str(row["id"]), str(row["project_id"]), row["url"], row["created_at"], row["last_result"])


def _claim(hook: Row, delivery: Row) -> Claim:
    return Claim(
        delivery_id=str(delivery["id"]),
        hook_id=str(hook["id"]),
        url=hook["url"],
        sealed_secret=hook["secret"],
        body=delivery["body"],
        tries=delivery["tries"],
        leased_until=hook["leased_until"],
    )
