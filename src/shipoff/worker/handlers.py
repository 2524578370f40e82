"""The use cases: hooks come and go, transitions become deliveries, deliveries are tried, unused objects are removed."""

from __future__ import annotations

import secrets

import structlog

from shipoff.common.errors import DataLoss, NotFound, TemporaryError
from shipoff.common.ids import new_id
from shipoff.worker.domain import EVENT_NAME, Claim, Hook, NewHook, Outcome, Removal, signature
from shipoff.worker.ports import Deliveries, Hooks, Objects, Removals, Seal, Sender
from shipoff.worker.transitions import decide, is_leftover

HOOKS_PER_PROJECT = 20
_SECRET_BYTES = 32
_REMOVALS_AT_ONCE = 50

log = structlog.get_logger()


async def create_hook(hooks: Hooks, sender: Sender, seal: Seal, *, project_id: str, team_id: str, url: str) -> tuple[Hook, str]:
    """The stored hook and its secret, which is readable here and never again. Raises InvalidInput, PreconditionFailed."""
    await sender.check(url)
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    new = NewHook(id=new_id(), project_id=project_id, team_id=team_id, url=url, sealed_secret=seal.seal(secret.encode()))
    return await hooks.add(new, at_most=HOOKS_PER_PROJECT), secret


async def deliver(deliveries: Deliveries, sender: Sender, seal: Seal, claim: Claim, *, now_s: int) -> None:
    """Tries a claimed delivery once and records what became of it."""
    outcome = await _try(sender, seal, claim, now_s)
    verdict = decide(outcome, claim.tries)
    kept = await deliveries.record(claim, verdict)
    fields = {"hook_id": claim.hook_id, "delivery_id": claim.delivery_id, "tries": claim.tries, "result": verdict.result}
    log.info("hook delivery tried", retry_in_s=verdict.retry_in_s, lease_lost=not kept, **fields)


async def _try(sender: Sender, seal: Seal, claim: Claim, now_s: int) -> Outcome:
    try:
        secret = seal.open(claim.sealed_secret)
    except DataLoss:
        return Outcome(error="the hook's secret cannot be opened with this master key")
    headers = {
        "Content-Type": "application/json",
        "Shipoff-Event": EVENT_NAME,
        "Shipoff-Delivery": claim.delivery_id,
        "Shipoff-Timestamp": str(now_s),
        "Shipoff-Signature": signature(secret, claim.body),
    }
    return await sender.send(claim.url, claim.body, headers)


async def remove_objects(removals: Removals, objects: Objects) -> None:
    """Removes what is due from the object store; what does not work now is due again later."""
    for removal in await removals.due_removals(_REMOVALS_AT_ONCE):
        try:
            done = await _remove(removal, objects)
        except TemporaryError as error:
            log.warning("object not removed", object_key=removal.object_key, tries=removal.tries, error=str(error))
            continue
        await removals.settled(removal.object_key)
        log.info("removal settled", object_key=removal.object_key, what=done)


async def _remove(removal: Removal, objects: Objects) -> str:
    """What was done: "removed", "kept" or "missing"."""
    try:
        changed_at = await objects.changed_at(removal.object_key)
    except NotFound:
        return "missing"
    if not is_leftover(removal, changed_at):
        return "kept"
    await objects.delete(removal.object_key)
    return "removed"
