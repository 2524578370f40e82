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
PROJECT = "shipoff.dev/project"
ENVIRONMENT = "shipoff.dev/environment"
PROCESS = "shipoff.dev/process"
RELEASE = "shipoff.dev/release"
# The deployment that an object was applied for last.
DEPLOYMENT = "shipoff.dev/deployment"
APPLIED = "shipoff.dev/applied"
GENERATION = "shipoff.dev/generation"


def project_labels(workload: Workload) -> dict[str, str]:
    """Whose it is."""
    return {MANAGED_BY: MANAGER, PROJECT: workload.project_id}


def environment_labels(workload: Workload) -> dict[str, str]:
    """And of which environment."""
    return {**project_labels(workload), ENVIRONMENT: dns_label(workload.environment)}


def owner_labels(workload: Workload) -> dict[str, str]:
    """And for which deployment."""
    return {**environment_labels(workload), DEPLOYMENT: workload.deployment_id}


def fingerprint(obj: Object) -> str:
    """What stands for the object's whole desired content, the mark itself left out."""
    content = json.dumps(obj.to_dict(), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def marked(obj: Object) -> Object:
    """The object with its fingerprint as an annotation: it says what was applied, so that the same is not applied twice."""
    metadata = obj.metadata or ObjectMeta()
    metadata.annotations = {**(metadata.annotations or {}), APPLIED: fingerprint(obj)}
    obj.metadata = metadata
    return obj
