"""Whether a source was built before just as it would be built now: then its artifact is used again, and nothing is built.

Called by the session as soon as the plan is there. What decides: the source's digest and the plan, which every setting of the
project that matters is in; the variables that a step can see; and what the operator set for builds. The newest builds of the
project alone are looked at: artifacts of older ones may be on their way out.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from shipoff.build.ports import Stored
from shipoff.common.errors import NotFound
from shipoff.common.sealing import Sealer
from shipoff.contracts.build.v1 import build_pb2
from shipoff.contracts.types.v1 import types_pb2

# Grows when the same source and plan come to be built into something else.
_FORMAT = 1
_EVERY = "*"

log = structlog.get_logger()


@dataclass(frozen=True)
class Earlier:
    """An artifact that is there, and whose build left it."""

    artifact: types_pb2.Artifact
    deployment_id: str


class EarlierBuilds(Protocol):
    """What was built before."""

    async def built_before(self, project_id: str, build_key: str) -> Earlier | None:
        """The newest of the project's last builds that were made of the same; None where there is none."""
        ...


class Presence(Protocol):
    """Tells whether an object is there."""

    async def changed_at(self, key: str) -> object:
        """Raises NotFound."""
        ...


@dataclass(frozen=True)
class Reuse:
    """Finds artifacts to use again."""

    builds: EarlierBuilds
    objects: Presence
    sealer: Sealer
    # What the operator set for builds, in one text.
    circumstances: str

    async def considered(self, stored: Stored, decided: build_pb2.PlanDecided) -> tuple[build_pb2.PlanDecided, str]:
        """The answer to the builder, with the artifact to use again where there is one, and the key of its build.

        Empty without a plan or a digest of the source: nothing can be said of it.
        """
        if not decided.HasField("plan") or not decided.plan.source_digest:
            return decided, ""
        configuration = stored.request.configuration
        variables = self.sealer.open_variables(configuration.variables)
        secret = self.sealer.derive(f"build key of {stored.project_id}")
        key = build_key(decided.plan, variables, circumstances=self.circumstances, secret=secret)
        earlier = None if configuration.no_cache else await self.builds.built_before(stored.project_id, key)
        if earlier is not None and await self._is_there(earlier.artifact):
            decided.unchanged.CopyFrom(earlier.artifact)
            decided.unchanged_since = earlier.deployment_id
        return decided, key

    async def _is_there(self, artifact: types_pb2.Artifact) -> bool:
        if artifact.kind == types_pb2.ARTIFACT_KIND_IMAGE:
            return True
        try:
            await self.objects.changed_at(artifact.object_key)
        except NotFound:
            log.info("an artifact to use again is gone", object_key=artifact.object_key)
            return False
        return True


def build_key(plan: types_pb2.Plan, variables: Mapping[str, str], *, circumstances: str, secret: bytes) -> str:
    """The same for builds of the same; values of variables cannot be turned back or compared without the secret (RFC 2104)."""
    names = {name for step in plan.steps for name in step.secrets}
    seen = sorted(variables) if _EVERY in names else sorted(names & variables.keys())
    whole = hmac.new(secret, digestmod=hashlib.sha256)
    parts = [str(_FORMAT), circumstances, *(part for name in seen for part in (name, variables[name]))]
    for part in [plan.SerializeToString(deterministic=True), *(part.encode() for part in parts)]:
        whole.update(len(part).to_bytes(8, "big") + part)
    return whole.hexdigest()
