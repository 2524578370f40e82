"""Webhook deliveries: those that arrive together are recorded, and accepted, in one transaction. Called by server.py."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import structlog

from shipoff.common.batching import Batcher
from shipoff.common.errors import InvalidInput
from shipoff.common.telemetry import Context, current, working_on
from shipoff.project import github
from shipoff.project.accepting import GITHUB, Deployments
from shipoff.project.domain import PRODUCTION, Delivery, Project
from shipoff.project.ports import Store, Work

_AT_ONCE = 64
# A payload that is larger is parsed beside the loop.
_LARGE_BYTES = 64 << 10

log = structlog.get_logger()


@dataclass(frozen=True)
class _Arrival:
    """A delivery whose signature is right; `push` None: an event that starts nothing."""

    delivery_id: str
    event: str
    push: github.Push | None
    context: Context


class Deliveries:
    """Takes deliveries in."""

    def __init__(self, store: Store, deployments: Deployments, *, webhook_secret: str) -> None:
        self._store = store
        self._deployments = deployments
        self._webhook_secret = webhook_secret
        self._record = Batcher(self._record_all, most=_AT_ONCE)

    def open(self) -> AbstractAsyncContextManager[None]:
        """At the end of the block what is being recorded is waited for."""
        return self._record.open()

    async def receive(self, delivery_id: str, event: str, *, signature: str, body: bytes) -> tuple[bool, Delivery]:
        """Whether the delivery was known already, and what it led to.

        Raises Unauthenticated before the body is looked at, InvalidInput when it is not what GitHub sends.
        """
        github.verify(self._webhook_secret, body, signature)
        if not delivery_id or not event:
            field = "event" if delivery_id else "delivery_id"
            raise InvalidInput(f"the delivery has no {field}", field=field)
        push = github.push_of(await _parsed(body)) if event == "push" else None
        repeated, outcome = await self._record(_Arrival(delivery_id, event, push, current()))
        if not repeated:
            log.info("webhook received", event_name=event, delivery=delivery_id, deployments=len(outcome.deployment_ids))
        return repeated, outcome

    async def _record_all(self, arrivals: Sequence[_Arrival]) -> Sequence[tuple[bool, Delivery]]:
        async with self._store.work() as work:
            first = {one.delivery_id: one for one in reversed(arrivals)}
            new = await work.begin_deliveries(GITHUB, {delivery_id: one.event for delivery_id, one in first.items()})
            outcomes = dict(await work.deliveries(GITHUB, first.keys() - new))
            pushes = [one.push for one in first.values() if one.push and one.delivery_id not in outcomes]
            await work.prepare({push.repository_key for push in pushes}, PRODUCTION)
            for one in arrivals:
                if one.delivery_id not in outcomes:
                    with working_on(one.context):
                        outcomes[one.delivery_id] = await self._led_to(work, one)
                    await work.end_delivery(GITHUB, one.delivery_id, outcomes[one.delivery_id])
        return [(not (one.delivery_id in new and first[one.delivery_id] is one), outcomes[one.delivery_id]) for one in arrivals]

    async def _led_to(self, work: Work, arrival: _Arrival) -> Delivery:
        if arrival.push is None:
            return Delivery(ignored_because=f"{arrival.event} events start nothing")
        return await self._pushed(work, arrival.push)

    async def _pushed(self, work: Work, push: github.Push) -> Delivery:
        deployment_ids, reasons = [], []
        for project in await work.following(push.repository_key):
            reason = await self._why_not(work, project, push)
            if reason:
                reasons.append(reason)
                continue
            position = github.Position(push.pushed_at, push.commit, push.before)
            await work.set_position(project.id, PRODUCTION, push.branch, position)
            deployment_ids.append(await self._deployments.accept_push(work, project, push))
        if deployment_ids:
            return Delivery(tuple(deployment_ids))
        # dict.fromkeys: each reason once, in their order.
        return Delivery(ignored_because="; ".join(dict.fromkeys(reasons)) or f"no project follows {push.repository_key}")

    @staticmethod
    async def _why_not(work: Work, project: Project, push: github.Push) -> str:
        reason = github.why_not(push, project.repository.branch if project.repository else "")
        return reason or github.why_stale(push, await work.position(project.id, PRODUCTION, push.branch))


async def _parsed(body: bytes) -> dict[str, object]:
    return github.parse(body) if len(body) < _LARGE_BYTES else await asyncio.to_thread(github.parse, body)
