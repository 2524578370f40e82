"""Who is meant by the ids that deployments carry: e-mail addresses, for everything the gateway shows of them.

The routes and streaming.py make what they show of a deployment here, and nowhere else.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shipoff.common.errors import ShipoffError
from shipoff.contracts.identity.v1 import identity_pb2
from shipoff.contracts.orchestrator.v1 import orchestrator_pb2
from shipoff.gateway.clients import Clients
from shipoff.gateway.models.deployments import DeploymentOut, deployment_out
from shipoff.gateway.settings import GatewaySettings

Deployment = orchestrator_pb2.Deployment

_ID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
# A member who joins or changes the address is shown with it this much later.
_FRESH_S = 10.0
_MOST_TEAMS = 1000


@dataclass
class People:
    """The members of teams, as they were a moment ago."""

    clients: Clients
    settings: GatewaySettings
    _known: dict[str, tuple[float, Mapping[str, str]]] = field(default_factory=dict)

    async def shown(self, deployment: Deployment) -> DeploymentOut:
        """The deployment with its team's members by their addresses. Whoever is no member (any more) stays an id."""
        return deployment_out(await self.named(deployment), self.settings)

    async def all_shown(self, deployments: Sequence[Deployment]) -> list[DeploymentOut]:
        """Likewise, in the same order."""
        return [await self.shown(deployment) for deployment in deployments]

    async def named(self, deployment: Deployment) -> Deployment:
        """A copy with addresses in the ids' place, in reasons too ("cancelled by …"); ids of anything else stay."""
        names = await self._of(deployment.team_id) if _mentions_somebody(deployment) else {}
        return _renamed(deployment, names) if names else deployment

    async def _of(self, team_id: str) -> Mapping[str, str]:
        """User id → e-mail address. While identity is away: as it was last, or nobody: a name is not worth an error."""
        read_at, names = self._known.get(team_id, (-_FRESH_S, {}))
        if time.monotonic() - read_at < _FRESH_S:
            return names
        # A failure is remembered too: identity is not asked again for each deployment of a list.
        with contextlib.suppress(ShipoffError):
            answer = await self.clients.identity.ListMembers(identity_pb2.ListMembersRequest(team_id=team_id))
            names = {member.user.id: member.user.email for member in answer.members}
        if len(self._known) >= _MOST_TEAMS:
            self._known.clear()
        self._known[team_id] = (time.monotonic(), names)
        return names


def _mentions_somebody(deployment: Deployment) -> bool:
    texts = [deployment.requested_by, deployment.reason]
    texts += [text for transition in deployment.transitions for text in (transition.actor, transition.reason)]
    return any(_ID.search(text) for text in texts)


def _renamed(deployment: Deployment, names: Mapping[str, str]) -> Deployment:
    def renamed(text: str) -> str:
        return _ID.sub(lambda found: names.get(found[0], found[0]), text)

    copy = Deployment()
    copy.CopyFrom(deployment)
    copy.requested_by, copy.reason = renamed(copy.requested_by), renamed(copy.reason)
    for transition in copy.transitions:
        transition.actor, transition.reason = renamed(transition.actor), renamed(transition.reason)
    return copy
