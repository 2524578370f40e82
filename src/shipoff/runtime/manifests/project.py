"""The objects of a project: its namespace, what it may use, and whom its pods may talk to."""

from __future__ import annotations

from lightkube.models.core_v1 import LimitRangeItem, LimitRangeSpec, ResourceQuotaSpec
from lightkube.models.meta_v1 import LabelSelector, ObjectMeta
from lightkube.models.networking_v1 import (
    IPBlock,
    NetworkPolicyEgressRule,
    NetworkPolicyIngressRule,
    NetworkPolicyPeer,
    NetworkPolicyPort,
    NetworkPolicySpec,
)
from lightkube.resources.core_v1 import LimitRange, Namespace, ResourceQuota, ServiceAccount
from lightkube.resources.networking_v1 import NetworkPolicy

from shipoff.runtime.domain import WEB, Workload
from shipoff.runtime.manifests.cluster import PRIVATE_RANGES, PRIVATE_RANGES_V6, ClusterSettings
from shipoff.runtime.manifests.marks import PROCESS, Object, marked, project_labels
from shipoff.runtime.manifests.names import Names

# https://kubernetes.io/docs/concepts/security/pod-security-admission/
_POD_SECURITY = "pod-security.kubernetes.io"
_NAMESPACE_NAME = "kubernetes.io/metadata.name"
_DNS_PORT = 53
_MEBI = 1 << 20
# Whom every pod of the project is, for the API server; it is given no token.
ACCOUNT = "app"


def project_objects(workload: Workload, names: Names, cluster: ClusterSettings) -> list[Object]:
    """The namespace first: the others live in it."""
    objects: list[Object] = [
        _namespace(workload, names, cluster),
        ServiceAccount(metadata=_metadata(workload, names, cluster, ACCOUNT), automountServiceAccountToken=False),
        _quota(workload, names, cluster),
        _limits(workload, names, cluster),
        *_policies(workload, names, cluster),
    ]
    return [marked(one) for one in objects]


def _namespace(workload: Workload, names: Names, cluster: ClusterSettings) -> Namespace:
    security = {f"{_POD_SECURITY}/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    annotations = {"shipoff.dev/project-name": workload.project_name}
    labels = {**project_labels(workload, cluster.platform), **security}
    return Namespace(metadata=ObjectMeta(name=names.namespace, labels=labels, annotations=annotations))


def _quota(workload: Workload, names: Names, cluster: ClusterSettings) -> ResourceQuota:
    hard = {
        "pods": str(cluster.quota_pods),
        "requests.cpu": f"{cluster.quota_cpu_millis}m",
        "requests.memory": f"{cluster.quota_memory_bytes // _MEBI}Mi",
        "limits.memory": f"{cluster.quota_memory_bytes // _MEBI}Mi",
        "services.nodeports": "0",
        "services.loadbalancers": "0",
        "persistentvolumeclaims": "0",
    }
    return ResourceQuota(metadata=_metadata(workload, names, cluster, "quota"), spec=ResourceQuotaSpec(hard=hard))


def _limits(workload: Workload, names: Names, cluster: ClusterSettings) -> LimitRange:
    item = LimitRangeItem(
        type="Container",
        default={"cpu": f"{cluster.most_cpu_millis}m", "memory": "256Mi"},
        defaultRequest={"cpu": f"{cluster.cpu_millis}m", "memory": "256Mi"},
    )
    return LimitRange(metadata=_metadata(workload, names, cluster, "limits"), spec=LimitRangeSpec(limits=[item]))


def _policies(workload: Workload, names: Names, cluster: ClusterSettings) -> list[NetworkPolicy]:
    """Nothing in and nothing out, but for names, the outside world, and requests from the ingress controller."""
    everything = LabelSelector()
    controller = LabelSelector(matchLabels={_NAMESPACE_NAME: cluster.ingress_namespace})
    return [
        NetworkPolicy(
            metadata=_metadata(workload, names, cluster, "deny-all"),
            spec=NetworkPolicySpec(podSelector=everything, policyTypes=["Ingress", "Egress"]),
        ),
        NetworkPolicy(
            metadata=_metadata(workload, names, cluster, "allow-dns"),
            spec=NetworkPolicySpec(podSelector=everything, policyTypes=["Egress"], egress=[_dns()]),
        ),
        NetworkPolicy(
            metadata=_metadata(workload, names, cluster, "allow-outside"),
            spec=NetworkPolicySpec(podSelector=everything, policyTypes=["Egress"], egress=[_outside()]),
        ),
        NetworkPolicy(
            metadata=_metadata(workload, names, cluster, "allow-ingress-controller"),
            spec=NetworkPolicySpec(
                podSelector=LabelSelector(matchLabels={PROCESS: WEB}),
                policyTypes=["Ingress"],
                ingress=[NetworkPolicyIngressRule(from_=[NetworkPolicyPeer(namespaceSelector=controller)])],
            ),
        ),
    ]


def _dns() -> NetworkPolicyEgressRule:
    system = NetworkPolicyPeer(
        namespaceSelector=LabelSelector(matchLabels={_NAMESPACE_NAME: "kube-system"}),
        podSelector=LabelSelector(matchLabels={"k8s-app": "kube-dns"}),
    )
    ports = [NetworkPolicyPort(port=_DNS_PORT, protocol=protocol) for protocol in ("UDP", "TCP")]
    return NetworkPolicyEgressRule(to=[system], ports=ports)


def _outside() -> NetworkPolicyEgressRule:
    blocks = [
        IPBlock(cidr="0.0.0.0/0", except_=list(PRIVATE_RANGES)),
        IPBlock(cidr="::/0", except_=list(PRIVATE_RANGES_V6)),
    ]
    return NetworkPolicyEgressRule(to=[NetworkPolicyPeer(ipBlock=block) for block in blocks])


def _metadata(workload: Workload, names: Names, cluster: ClusterSettings, name: str) -> ObjectMeta:
    return ObjectMeta(name=name, namespace=names.namespace, labels=project_labels(workload, cluster.platform))
