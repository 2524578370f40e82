"""The builds' namespace: who may run there, what all of them may use, and whom they may talk to."""

from __future__ import annotations

import ipaddress

from lightkube.models.core_v1 import ResourceQuotaSpec
from lightkube.models.meta_v1 import LabelSelector, ObjectMeta
from lightkube.models.networking_v1 import (
    IPBlock,
    NetworkPolicyEgressRule,
    NetworkPolicyPeer,
    NetworkPolicyPort,
    NetworkPolicySpec,
)
from lightkube.resources.core_v1 import Namespace, ResourceQuota, ServiceAccount
from lightkube.resources.networking_v1 import NetworkPolicy

from shipoff.build.manifests.cluster import BuildCluster
from shipoff.build.manifests.marks import platform_labels

Object = Namespace | ServiceAccount | ResourceQuota | NetworkPolicy

# Who every pod is for the API server; it is given no token.
ACCOUNT = "builder"
# https://kubernetes.io/docs/concepts/security/pod-security-admission/
_POD_SECURITY = "pod-security.kubernetes.io"
_NAMESPACE_NAME = "kubernetes.io/metadata.name"
_DNS_PORT = 53
# Private, shared and link-local networks: the cluster's own, its neighbours, the clouds' metadata.
_PRIVATE = ("10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16")
_PRIVATE_V6 = ("fc00::/7", "fe80::/10")
_MEBI = 1 << 20


def namespace_objects(cluster: BuildCluster) -> list[Object]:
    """The namespace first: the others live in it."""
    return [
        _namespace(cluster),
        ServiceAccount(metadata=_metadata(cluster, ACCOUNT), automountServiceAccountToken=False),
        _quota(cluster),
        *_policies(cluster),
    ]


def _namespace(cluster: BuildCluster) -> Namespace:
    security = {f"{_POD_SECURITY}/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    return Namespace(metadata=ObjectMeta(name=cluster.namespace, labels={**platform_labels(cluster.platform), **security}))


def _quota(cluster: BuildCluster) -> ResourceQuota:
    """A fence around what admission gives, not admission itself.

    Half as much again: a builder has some memory of its own beside its build's, and one that was told to end still counts
    while the next attempt begins.
    """
    most = str(cluster.most_jobs)
    hard = {"count/jobs.batch": most, "pods": most, "services.nodeports": "0", "services.loadbalancers": "0"}
    if cluster.budget_cpu_millis:
        hard["requests.cpu"] = f"{cluster.budget_cpu_millis * 3 // 2}m"
    if cluster.budget_memory_bytes:
        memory = f"{cluster.budget_memory_bytes * 3 // 2 // _MEBI}Mi"
        hard |= {"requests.memory": memory, "limits.memory": memory}
    return ResourceQuota(metadata=_metadata(cluster, "builds"), spec=ResourceQuotaSpec(hard=hard))


def _policies(cluster: BuildCluster) -> list[NetworkPolicy]:
    """Nothing in; out to names, to the platform's own two addresses, and to what sources and packages come from."""
    own = [_reach(address, cluster) for address in (cluster.address, cluster.buildkit) if address]
    return [
        NetworkPolicy(
            metadata=_metadata(cluster, "deny-all"),
            spec=NetworkPolicySpec(podSelector=LabelSelector(), policyTypes=["Ingress", "Egress"]),
        ),
        _allowing(cluster, "allow-dns", [_dns()]),
        _allowing(cluster, "allow-platform", own),
        _allowing(cluster, "allow-outside", _outside(cluster)),
    ]


def _allowing(cluster: BuildCluster, name: str, rules: list[NetworkPolicyEgressRule]) -> NetworkPolicy:
    spec = NetworkPolicySpec(podSelector=LabelSelector(), policyTypes=["Egress"], egress=rules)
    return NetworkPolicy(metadata=_metadata(cluster, name), spec=spec)


def _dns() -> NetworkPolicyEgressRule:
    system = NetworkPolicyPeer(
        namespaceSelector=LabelSelector(matchLabels={_NAMESPACE_NAME: "kube-system"}),
        podSelector=LabelSelector(matchLabels={"k8s-app": "kube-dns"}),
    )
    ports = [NetworkPolicyPort(port=_DNS_PORT, protocol=protocol) for protocol in ("UDP", "TCP")]
    return NetworkPolicyEgressRule(to=[system], ports=ports)


def _reach(address: str, cluster: BuildCluster) -> NetworkPolicyEgressRule:
    """To a host:port of the platform's own: `<service>.<namespace>.svc…` is that namespace, a number is itself.

    Where another name leads to is not known here: its port is open on public addresses. Policies see pods' ports, so a Service
    has to have the same one.
    """
    host, _, port = address.rpartition(":")
    ports = [NetworkPolicyPort(port=int(port), protocol="TCP")]
    labels = host.split(".")
    if len(labels) > 2 and labels[2] == "svc":
        there = LabelSelector(matchLabels={_NAMESPACE_NAME: labels[1]})
        return NetworkPolicyEgressRule(to=[NetworkPolicyPeer(namespaceSelector=there)], ports=ports)
    try:
        network = ipaddress.ip_network(host.strip("[]"))
    except ValueError:
        return NetworkPolicyEgressRule(to=_public(cluster), ports=ports)
    return NetworkPolicyEgressRule(to=[NetworkPolicyPeer(ipBlock=IPBlock(cidr=str(network)))], ports=ports)


def _outside(cluster: BuildCluster) -> list[NetworkPolicyEgressRule]:
    ports = [NetworkPolicyPort(port=port, protocol="TCP") for port in cluster.outside_ports]
    public = NetworkPolicyEgressRule(to=_public(cluster), ports=ports or None)
    if not cluster.allow_networks:
        return [public]
    chosen = [NetworkPolicyPeer(ipBlock=IPBlock(cidr=one)) for one in cluster.allow_networks]
    return [public, NetworkPolicyEgressRule(to=chosen)]


def _public(cluster: BuildCluster) -> list[NetworkPolicyPeer]:
    denied = [ipaddress.ip_network(one) for one in cluster.deny_networks]
    blocks = [
        IPBlock(cidr="0.0.0.0/0", except_=[*_PRIVATE, *(str(one) for one in denied if one.version == 4)]),
        IPBlock(cidr="::/0", except_=[*_PRIVATE_V6, *(str(one) for one in denied if one.version == 6)]),
    ]
    return [NetworkPolicyPeer(ipBlock=block) for block in blocks]


def _metadata(cluster: BuildCluster, name: str) -> ObjectMeta:
    return ObjectMeta(name=name, namespace=cluster.namespace, labels=platform_labels(cluster.platform))
