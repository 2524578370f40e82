"""What every object carries: whose it is, and what was last applied to it."""

from __future__ import annotations

import hashlib
import json

from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.autoscaling_v2 import HorizontalPodAutoscaler
from lightkube.resources.core_v1 import ConfigMap, LimitRange, Namespace, Pod, ResourceQuota, Secret, Service, ServiceAccount
from lightkube.resources.networking_v1 import Ingress, NetworkPolicy
from lightkube.resources.policy_v1 import PodDisruptionBudget

from shipoff.runtime.domain import Workload
from shipoff.runtime.manifests.names import dns_label

Object = (
    Namespace
    | ResourceQuota
    | LimitRange
    | NetworkPolicy
    | ServiceAccount
    | ConfigMap
    | Secret
    | Deployment
    | Pod
    | HorizontalPodAutoscaler
    | Service
    | PodDisruptionBudget
    | Ingress
)

MANAGER = "shipoff"
MANAGED_BY = "app.kubernetes.io/managed-by"
# Which platform's, where several share a cluster.
PLATFORM = "shipoff.dev/platform"
PROJECT = "shipoff.dev/project"
ENVIRONMENT = "shipoff.dev/environment"
PROCESS = "shipoff.dev/process"
RELEASE = "shipoff.dev/release"
# The deployment that an object was applied for last.
DEPLOYMENT = "shipoff.dev/deployment"
APPLIED = "shipoff.dev/applied"
GENERATION = "shipoff.dev/generation"
# A pod that runs a command once; its own name.
COMMAND = "shipoff.dev/command"
# Until when somebody follows it, in seconds since 1970.
HELD_UNTIL = "shipoff.dev/held-until"


def platform_labels(platform: str) -> dict[str, str]:
    """What tells the platform's objects from everything else on the cluster, other platforms' included."""
    return {MANAGED_BY: MANAGER, PLATFORM: platform}


def project_labels(workload: Workload, platform: str) -> dict[str, str]:
    """Whose it is."""
    return {**platform_labels(platform), PROJECT: workload.project_id}


def environment_labels(workload: Workload, platform: str) -> dict[str, str]:
    """And of which environment."""
    return {**project_labels(workload, platform), ENVIRONMENT: dns_label(workload.environment)}


def owner_labels(workload: Workload, platform: str) -> dict[str, str]:
    """And for which deployment."""
    return {**environment_labels(workload, platform), DEPLOYMENT: workload.deployment_id}


def fingerprint(obj: Object) -> str:
    """What stands for the object's whole desired content, the mark itself left out.

    Of a Secret without its values, for which its name stands: whoever reads the mark could try what they are.
    """
    document = obj.to_dict()
    if isinstance(obj, Secret):
        document.pop("data", None)
    content = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def marked(obj: Object) -> Object:
    """The object with its fingerprint as an annotation: it says what was applied, so that the same is not applied twice."""
    metadata = obj.metadata or ObjectMeta()
    metadata.annotations = {**(metadata.annotations or {}), APPLIED: fingerprint(obj)}
    obj.metadata = metadata
    return obj
