"""The objects of a release: its processes with their configuration, and what they run as."""

from __future__ import annotations

import math
from base64 import b64encode
from dataclasses import dataclass

from lightkube.models.apps_v1 import DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment
from lightkube.models.autoscaling_v2 import (
    CrossVersionObjectReference,
    HorizontalPodAutoscalerSpec,
    MetricSpec,
    MetricTarget,
    ResourceMetricSource,
)
from lightkube.models.core_v1 import (
    Capabilities,
    ConfigMapEnvSource,
    Container,
    ContainerPort,
    EmptyDirVolumeSource,
    EnvFromSource,
    HTTPGetAction,
    Lifecycle,
    LifecycleHandler,
    PodSecurityContext,
    PodSpec,
    PodTemplateSpec,
    Probe,
    ResourceRequirements,
    SeccompProfile,
    SecretEnvSource,
    SecurityContext,
    SleepAction,
    TCPSocketAction,
    Volume,
    VolumeMount,
)
from lightkube.models.meta_v1 import LabelSelector, ObjectMeta
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.autoscaling_v2 import HorizontalPodAutoscaler
from lightkube.resources.core_v1 import ConfigMap, Secret

from shipoff.runtime.domain import WEB, Process, Workload, filled
from shipoff.runtime.manifests import marks
from shipoff.runtime.manifests.cluster import PORT, SCRATCH_BYTES, ClusterSettings, Configured
from shipoff.runtime.manifests.marks import Object, marked
from shipoff.runtime.manifests.names import Names, digest_of, dns_label, names_of, serves
from shipoff.runtime.manifests.project import ACCOUNT

CONTAINER = "app"
PORT_NAME = "http"
# Probes and the Service come to the pod's address.
_EVERYWHERE = "0.0.0.0"
_CPU_TARGET_PERCENT = 80
# The controller of Sealed Secrets may take a Secret over that the driver applied itself, when Argo CD is to apply from then on.
_MANAGED = "sealedsecrets.bitnami.com/managed"
_LIVE_EVERY_S = 10


@dataclass(frozen=True)
class Release:
    """A workload with everything that its objects are made from."""

    workload: Workload
    configured: Configured
    cluster: ClusterSettings

    @property
    def port(self) -> int:
        """Where its `web` listens."""
        return self.workload.port or PORT

    @property
    def config(self) -> dict[str, str]:
        """What the platform decides about the processes' environment."""
        return {
            "HOME": "/tmp",  # noqa: S108 - the one folder of the container that it may write to
            "HOST": _EVERYWHERE,
            "PORT": str(self.port),
            "SHIPOFF_ENVIRONMENT": self.workload.environment,
            "SHIPOFF_PROJECT": self.workload.project_name,
        }

    @property
    def names(self) -> Names:
        """What its objects are called. Raises InvalidInput."""
        config = digest_of(*(part for pair in sorted(self.config.items()) for part in pair))
        return names_of(self.workload, platform=self.cluster.platform, config=config, secret=self.configured.secret)

    def replicas(self, process: Process) -> int:
        """How many instances of a process are wanted."""
        return sum(name == process.name for name, _ in self.workload.slots())


def release_objects(release: Release) -> list[Object]:
    """The configuration first: what runs refers to it. That alone, as long as its release command has not ended."""
    workload, names = release.workload, release.names
    secret = _metadata(release, names.secret)
    secret.annotations = {_MANAGED: "true"}
    objects: list[Object] = [
        ConfigMap(metadata=_metadata(release, names.config), data=release.config, immutable=True),
        Secret(
            metadata=secret,
            data={name: b64encode(value.encode()).decode() for name, value in release.configured.variables.items()},
            immutable=True,
            type="Opaque",
        ),
    ]
    for process in () if workload.releasing else workload.runnable:
        objects.append(_deployment(release, process))
        if _is_autoscaled(release, process):
            objects.append(_autoscaler(release, process))
    return [marked(one) for one in objects]


def _metadata(release: Release, name: str) -> ObjectMeta:
    labels = marks.environment_labels(release.workload, release.cluster.platform)
    return ObjectMeta(name=name, namespace=release.names.namespace, labels=labels)


def _is_autoscaled(release: Release, process: Process) -> bool:
    if release.workload.paused:
        return False
    scales = serves(process.name) or WEB not in {one.name for one in release.workload.runnable}
    return scales and release.cluster.max_replicas > release.replicas(process)


def _pod_labels(release: Release, process: Process) -> dict[str, str]:
    """Nothing of the deployment's own: the pods of a release outlive the deployment that brought them."""
    own = {marks.PROCESS: dns_label(process.name), marks.RELEASE: release.names.release}
    return {**marks.environment_labels(release.workload, release.cluster.platform), **own}


def _deployment(release: Release, process: Process) -> Deployment:
    """The process. How many there are is left out where an autoscaler says so: applying it would undo what that has done.

    https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#migrating-deployments-and-statefulsets-to-horizontal-autoscaling:
    a field that nobody applies any more falls back to 1. So the driver hands it over first, before there is an autoscaler.
    """
    workload, names = release.workload, release.names
    labels = _pod_labels(release, process)
    selector = {key: labels[key] for key in (marks.ENVIRONMENT, marks.PROCESS, marks.RELEASE)}
    # A restart that was asked for is another template, which Kubernetes rolls out one instance after the other.
    template = ObjectMeta(labels=labels, annotations={marks.GENERATION: str(workload.generation)})
    return Deployment(
        metadata=ObjectMeta(
            name=names.process(process.name),
            namespace=names.namespace,
            labels={**labels, marks.DEPLOYMENT: workload.deployment_id},
        ),
        spec=DeploymentSpec(
            replicas=None if _is_autoscaled(release, process) else release.replicas(process),
            selector=LabelSelector(matchLabels=selector),
            template=PodTemplateSpec(metadata=template, spec=pod_spec(release, process)),
            strategy=DeploymentStrategy(
                type="RollingUpdate", rollingUpdate=RollingUpdateDeployment(maxSurge=1, maxUnavailable=0)
            ),
            revisionHistoryLimit=1,
            progressDeadlineSeconds=math.ceil(workload.ready_timeout_s) + 1,
        ),
    )


def pod_spec(release: Release, process: Process) -> PodSpec:
    """How a process of the release runs."""
    cluster = release.cluster
    return PodSpec(
        serviceAccountName=ACCOUNT,
        automountServiceAccountToken=False,
        enableServiceLinks=False,
        terminationGracePeriodSeconds=cluster.grace_s,
        securityContext=PodSecurityContext(
            runAsNonRoot=True,
            runAsUser=cluster.user_id,
            runAsGroup=cluster.user_id,
            fsGroup=cluster.user_id,
            seccompProfile=SeccompProfile(type="RuntimeDefault"),
        ),
        containers=[_container(release, process)],
        volumes=[Volume(name="tmp", emptyDir=EmptyDirVolumeSource(sizeLimit=f"{SCRATCH_BYTES >> 20}Mi"))],
    )


def _container(release: Release, process: Process) -> Container:
    workload, names, cluster = release.workload, release.names, release.cluster
    container = Container(
        name=CONTAINER,
        image=workload.artifact.object_key,
        command=[_literal(filled(part, host=_EVERYWHERE, port=release.port)) for part in process.argv] or None,
        # The platform's after the user's: the later of two wins.
        envFrom=[
            EnvFromSource(secretRef=SecretEnvSource(name=names.secret)),
            EnvFromSource(configMapRef=ConfigMapEnvSource(name=names.config)),
        ],
        resources=_resources(workload, cluster),
        securityContext=SecurityContext(
            allowPrivilegeEscalation=False,
            privileged=False,
            readOnlyRootFilesystem=cluster.read_only_root,
            capabilities=Capabilities(drop=["ALL"]),
        ),
        volumeMounts=[VolumeMount(name="tmp", mountPath="/tmp")],  # noqa: S108 - inside the container
    )
    if serves(process.name):
        _open(container, release)
    return container


def _open(container: Container, release: Release) -> None:
    """Lets requests in: its port, how to tell that it is well, and a moment for those under way when it ends."""
    container.ports = [ContainerPort(name=PORT_NAME, containerPort=release.port, protocol="TCP")]
    container.startupProbe = _probe(release, every_s=1, misses=max(1, math.ceil(release.workload.ready_timeout_s)))
    container.readinessProbe = _probe(release, every_s=2, misses=3)
    alive = TCPSocketAction(port=PORT_NAME)
    container.livenessProbe = Probe(tcpSocket=alive, periodSeconds=_LIVE_EVERY_S, timeoutSeconds=5, failureThreshold=3)
    container.lifecycle = Lifecycle(preStop=LifecycleHandler(sleep=SleepAction(seconds=release.cluster.drain_s)))


def _probe(release: Release, *, every_s: int, misses: int) -> Probe:
    probe = Probe(periodSeconds=every_s, timeoutSeconds=5, failureThreshold=misses)
    if release.workload.health_path:
        probe.httpGet = HTTPGetAction(path=release.workload.health_path, port=PORT_NAME, scheme="HTTP")
    else:
        probe.tcpSocket = TCPSocketAction(port=PORT_NAME)
    return probe


def _resources(workload: Workload, cluster: ClusterSettings) -> ResourceRequirements:
    memory = f"{-(-workload.memory_bytes >> 20)}Mi"
    cpu = workload.cpu_millis or cluster.cpu_millis
    most = workload.cpu_millis or cluster.most_cpu_millis
    return ResourceRequirements(
        requests={"cpu": f"{cpu}m", "memory": memory},
        limits={"cpu": f"{most}m", "memory": memory},
    )


def _literal(part: str) -> str:
    """An argument that Kubernetes expands nothing in.

    https://kubernetes.io/docs/tasks/inject-data-application/define-command-argument-container/: `$$` stands for `$`.
    """
    return part.replace("$", "$$")


def _autoscaler(release: Release, process: Process) -> HorizontalPodAutoscaler:
    name = release.names.process(process.name)
    labels = {**_pod_labels(release, process), marks.DEPLOYMENT: release.workload.deployment_id}
    target = MetricTarget(type="Utilization", averageUtilization=_CPU_TARGET_PERCENT)
    return HorizontalPodAutoscaler(
        metadata=ObjectMeta(name=name, namespace=release.names.namespace, labels=labels),
        spec=HorizontalPodAutoscalerSpec(
            scaleTargetRef=CrossVersionObjectReference(apiVersion="apps/v1", kind="Deployment", name=name),
            minReplicas=release.replicas(process),
            maxReplicas=release.cluster.max_replicas,
            metrics=[MetricSpec(type="Resource", resource=ResourceMetricSource(name="cpu", target=target))],
        ),
    )
