"""The objects of an environment: they lead its requests to one release, and keep that one together."""

from __future__ import annotations

from lightkube.models.core_v1 import ServicePort, ServiceSpec
from lightkube.models.meta_v1 import LabelSelector, ObjectMeta
from lightkube.models.networking_v1 import (
    HTTPIngressPath,
    HTTPIngressRuleValue,
    IngressBackend,
    IngressRule,
    IngressServiceBackend,
    IngressSpec,
    IngressTLS,
    ServiceBackendPort,
)
from lightkube.models.policy_v1 import PodDisruptionBudgetSpec
from lightkube.resources.core_v1 import Service
from lightkube.resources.networking_v1 import Ingress
from lightkube.resources.policy_v1 import PodDisruptionBudget

from shipoff.runtime.domain import WEB
from shipoff.runtime.manifests import marks
from shipoff.runtime.manifests.marks import Object, marked
from shipoff.runtime.manifests.names import dns_label
from shipoff.runtime.manifests.release import PORT_NAME, Release
from shipoff.runtime.manifests.schedule import schedule_objects

# https://cert-manager.io/docs/usage/ingress/
_ISSUER = "cert-manager.io/cluster-issuer"
SERVICE_PORT = 80


def route_objects(release: Release) -> list[Object]:
    """The Service, whose selector is the switch, and what the release has scheduled; without a `web`, that alone."""
    objects: list[Object] = [*schedule_objects(release)]
    if WEB not in {process.name for process in release.workload.runnable}:
        return [marked(one) for one in objects]
    objects += [_service(release), _disruption_budget(release)]
    if _has_ingress(release):
        objects.append(_ingress(release))
    return [marked(one) for one in objects]


def reached_at(release: Release) -> tuple[str, int]:
    """Host and port at which the platform's own edge reaches it: the ingress controller where there is one to ask."""
    if release.cluster.ingress_address and _has_ingress(release):
        host, _, port = release.cluster.ingress_address.rpartition(":")
        return host.strip("[]"), int(port)
    return f"{release.names.environment}.{release.names.namespace}.svc", SERVICE_PORT


def _has_ingress(release: Release) -> bool:
    return bool(release.workload.hosts and release.cluster.ingress_class)


def _selector(release: Release) -> dict[str, str]:
    names = release.names
    return {marks.ENVIRONMENT: names.environment, marks.PROCESS: WEB, marks.RELEASE: names.release}


def _service(release: Release) -> Service:
    port = ServicePort(name=PORT_NAME, port=SERVICE_PORT, targetPort=PORT_NAME, protocol="TCP")
    return Service(metadata=_metadata(release), spec=ServiceSpec(type="ClusterIP", selector=_selector(release), ports=[port]))


def _disruption_budget(release: Release) -> PodDisruptionBudget:
    """At most one instance at a time goes for the node's sake."""
    spec = PodDisruptionBudgetSpec(maxUnavailable=1, selector=LabelSelector(matchLabels=_selector(release)))
    return PodDisruptionBudget(metadata=_metadata(release), spec=spec)


def _ingress(release: Release) -> Ingress:
    cluster, hosts = release.cluster, sorted(set(release.workload.hosts))
    metadata = _metadata(release)
    tls = None
    if cluster.cluster_issuer:
        metadata.annotations = {_ISSUER: cluster.cluster_issuer}
        tls = [IngressTLS(hosts=hosts, secretName=dns_label(release.names.environment, "tls"))]
    backend = IngressBackend(
        service=IngressServiceBackend(name=release.names.environment, port=ServiceBackendPort(name=PORT_NAME))
    )
    paths = HTTPIngressRuleValue(paths=[HTTPIngressPath(path="/", pathType="Prefix", backend=backend)])
    rules = [IngressRule(host=host, http=paths) for host in hosts]
    return Ingress(metadata=metadata, spec=IngressSpec(ingressClassName=cluster.ingress_class, rules=rules, tls=tls))


def _metadata(release: Release) -> ObjectMeta:
    names = release.names
    labels = marks.owner_labels(release.workload, release.cluster.platform)
    return ObjectMeta(name=names.environment, namespace=names.namespace, labels=labels)
