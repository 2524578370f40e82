"""Whose an object is: the labels that builds' objects carry. Apps' have another manager: neither part sees the other's."""

from __future__ import annotations

from shipoff.build.domain import Ref

MANAGER = "shipoff-build"
MANAGED_BY = "app.kubernetes.io/managed-by"
COMPONENT = "app.kubernetes.io/component"
BUILDER = "builder"
# Which platform's, where several share a cluster.
PLATFORM = "shipoff.dev/platform"
PROJECT = "shipoff.dev/project"
DEPLOYMENT = "shipoff.dev/deployment"
ATTEMPT = "shipoff.dev/attempt"


def platform_labels(platform: str) -> dict[str, str]:
    """What tells this platform's builds from everything else on the cluster."""
    return {MANAGED_BY: MANAGER, PLATFORM: platform}


def owner_labels(ref: Ref, project_id: str, platform: str) -> dict[str, str]:
    """And one attempt's from the others'."""
    attempt = {PROJECT: project_id, DEPLOYMENT: ref.deployment_id, ATTEMPT: str(ref.attempt)}
    return {**platform_labels(platform), COMPONENT: BUILDER, **attempt}
