"""Deliveries of source hosts. project verifies the signature, over the bytes as they came."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Request, Response

from shipoff.common.errors import InvalidInput, Unauthenticated
from shipoff.contracts.project.v1 import project_pb2
from shipoff.gateway.access import Platform
from shipoff.gateway.models.running import WebhookOut
from shipoff.gateway.routing import signed

router = signed("webhooks")

# GitHub waits for ten seconds. A delivery that is accepted later is not lost: if it comes again, it is recognised.
_TIMEOUT_S = 30.0


@router.post("/webhooks/github", status_code=202, responses={200: {"model": WebhookOut, "description": "Known already."}})
async def github(
    request: Request,
    response: Response,
    gateway: Platform,
    x_hub_signature_256: Annotated[str, Header(max_length=200)] = "",
    x_github_event: Annotated[str, Header(max_length=100)] = "",
    x_github_delivery: Annotated[str, Header(max_length=100)] = "",
) -> WebhookOut:
    """Starts the deployments that a push asks for (GitHub docs, "Validating webhook deliveries")."""
    # SHA-1 has a header of its own, which is not looked at.
    if not x_hub_signature_256.startswith("sha256="):
        raise Unauthenticated("the delivery is not signed", field="X-Hub-Signature-256", remedy="set the webhook's secret")
    if not x_github_event or not x_github_delivery:
        raise InvalidInput("X-GitHub-Event and X-GitHub-Delivery are needed", field="X-GitHub-Delivery")
    delivery = project_pb2.ReceiveWebhookRequest(
        provider="github",
        delivery_id=x_github_delivery,
        event=x_github_event,
        signature=x_hub_signature_256,
        body=await request.body(),
    )
    answer = await gateway.clients.project.ReceiveWebhook(delivery, timeout=_TIMEOUT_S)
    if answer.repeated:
        response.status_code = 200
    return WebhookOut(
        repeated=answer.repeated,
        deployment_ids=list(answer.deployment_ids),
        ignored_because=answer.ignored_because or None,
    )
