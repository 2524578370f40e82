"""One attempt's builder: a Job that waits until it is let go, and the Secret with what its pod is told."""

from __future__ import annotations

from base64 import b64encode

from lightkube.models.batch_v1 import JobSpec
from lightkube.models.core_v1 import (
    Capabilities,
    Container,
    EmptyDirVolumeSource,
    EnvVar,
    EnvVarSource,
    KeyToPath,
    LocalObjectReference,
    PersistentVolumeClaimVolumeSource,
    PodSecurityContext,
    PodSpec,
    PodTemplateSpec,
    ResourceRequirements,
    SeccompProfile,
    SecretKeySelector,
    SecretVolumeSource,
    SecurityContext,
    Volume,
    VolumeMount,
)
from lightkube.models.meta_v1 import ObjectMeta, OwnerReference
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Secret

from shipoff.build.domain import Order, Ref
from shipoff.build.manifests.cluster import BuildCluster
from shipoff.build.manifests.marks import owner_labels
from shipoff.build.manifests.namespace import ACCOUNT

CONTAINER = "builder"
# The builder's own files, and inside them the build's.
FOLDER = "/build"
WORK = f"{FOLDER}/tree"
CACHES = "/caches"
REGISTRY_FOLDER = "/registry"
LOGINS = f"{REGISTRY_FOLDER}/config.json"
BUILDKIT_TLS_FOLDER = "/buildkit-tls"
# Read by shipoff.builder.__main__.
ASSIGNMENT = "SHIPOFF_BUILDER_ASSIGNMENT"
_KEY = "assignment"
# Beside what its build was granted, a builder needs this much itself.
_OWN_MEMORY_BYTES = 192 << 20
_OWN_DISK_BYTES = 512 << 20
_SCRATCH_BYTES = 1 << 30
_LEAST_CPU_MILLIS = 100
# From SIGTERM to SIGKILL: time enough to say how it ended.
_GRACE_S = 5
# Past the build's own time: the builder ends itself, then the platform does, and this is for when both are gone.
_OVERTIME_S = 60


def name_of(ref: Ref) -> str:
    """What an attempt's objects are called."""
    return f"build-{ref.deployment_id}-{ref.attempt}"


def job(ref: Ref, order: Order, cluster: BuildCluster) -> Job:
    """The attempt's Job, suspended: it has no pod before it is let go. Never a second pod: attempts are the orchestrator's."""
    return Job(
        metadata=_metadata(ref, order, cluster),
        spec=JobSpec(
            suspend=True,
            backoffLimit=0,
            completions=1,
            parallelism=1,
            activeDeadlineSeconds=order.timeout_s + cluster.begin_s + _OVERTIME_S,
            ttlSecondsAfterFinished=cluster.keep_s,
            template=PodTemplateSpec(
                metadata=ObjectMeta(labels=owner_labels(ref, order.project_id, cluster.platform)),
                spec=_pod(ref, order, cluster),
            ),
        ),
    )


def secret(ref: Ref, order: Order, cluster: BuildCluster, *, job_uid: str, assignment: str) -> Secret:
    """What its pod is told, the attempt's token included. It goes with the Job."""
    metadata = _metadata(ref, order, cluster)
    metadata.ownerReferences = [OwnerReference(apiVersion="batch/v1", kind="Job", name=name_of(ref), uid=job_uid)]
    return Secret(metadata=metadata, data={_KEY: b64encode(assignment.encode()).decode()}, immutable=True, type="Opaque")


def _metadata(ref: Ref, order: Order, cluster: BuildCluster) -> ObjectMeta:
    labels = owner_labels(ref, order.project_id, cluster.platform)
    return ObjectMeta(name=name_of(ref), namespace=cluster.namespace, labels=labels)


def _pod(ref: Ref, order: Order, cluster: BuildCluster) -> PodSpec:
    volumes = _volumes(order, cluster)
    return PodSpec(
        containers=[_container(ref, order, cluster, [mount for _, mount in volumes])],
        volumes=[volume for volume, _ in volumes],
        restartPolicy="Never",
        serviceAccountName=ACCOUNT,
        automountServiceAccountToken=False,
        # Otherwise the environment lists every Service of the namespace.
        enableServiceLinks=False,
        terminationGracePeriodSeconds=_GRACE_S,
        imagePullSecrets=[LocalObjectReference(name=cluster.pull_secret)] if cluster.pull_secret else None,
        nodeSelector=dict(cluster.node_selector) or None,
        runtimeClassName=cluster.runtime_class or None,
        securityContext=PodSecurityContext(
            runAsNonRoot=True,
            runAsUser=cluster.user_id,
            runAsGroup=cluster.user_id,
            # What is mounted from elsewhere is its own too.
            fsGroup=cluster.user_id,
            fsGroupChangePolicy="OnRootMismatch",
            seccompProfile=SeccompProfile(type="RuntimeDefault"),
        ),
    )


def _container(ref: Ref, order: Order, cluster: BuildCluster, mounts: list[VolumeMount]) -> Container:
    told = EnvVarSource(secretKeyRef=SecretKeySelector(name=name_of(ref), key=_KEY))
    return Container(
        name=CONTAINER,
        image=cluster.image,
        # Without the image's init, whose environment would be open to the build's steps: the builder closes its own. The last
        # argument is for whoever reads a list of processes.
        command=["python3", "-I", "-m", "shipoff.builder", str(ref)],
        env=[
            EnvVar(name=ASSIGNMENT, valueFrom=told),
            # Its handlers around fork crash children that change their account before exec.
            EnvVar(name="GRPC_ENABLE_FORK_SUPPORT", value="0"),
            EnvVar(name="LANG", value="C.UTF-8"),
        ],
        resources=_resources(order, cluster),
        securityContext=SecurityContext(
            allowPrivilegeEscalation=False,
            privileged=False,
            readOnlyRootFilesystem=True,
            capabilities=Capabilities(drop=["ALL"]),
        ),
        # How it ended is then to be read in the pod's status, without asking for logs.
        terminationMessagePolicy="FallbackToLogsOnError",
        volumeMounts=mounts,
        workingDir=FOLDER,
    )


def _resources(order: Order, cluster: BuildCluster) -> ResourceRequirements:
    """What admission has granted; CPU in whole cores at most, as the builder holds its programs to."""
    memory = _mebi((order.memory_bytes or cluster.memory_bytes) + _OWN_MEMORY_BYTES)
    requests = {
        "cpu": f"{order.cpu_millis or _LEAST_CPU_MILLIS}m",
        "memory": memory,
        "ephemeral-storage": _mebi(_SCRATCH_BYTES),
    }
    limits = {"memory": memory, "ephemeral-storage": _mebi(2 * cluster.disk_bytes + _OWN_DISK_BYTES + _SCRATCH_BYTES)}
    if order.cpu_millis:
        limits["cpu"] = str(-(-order.cpu_millis // 1000))
    return ResourceRequirements(requests=requests, limits=limits)


def _volumes(order: Order, cluster: BuildCluster) -> list[tuple[Volume, VolumeMount]]:
    volumes = [
        _empty("build", FOLDER, cluster.disk_bytes + _OWN_DISK_BYTES),
        _empty("tmp", "/tmp", _SCRATCH_BYTES),  # noqa: S108 - inside the container
        _caches(order, cluster),
    ]
    if cluster.buildkit and cluster.registry_secret:
        login = [KeyToPath(key=".dockerconfigjson", path=LOGINS.rpartition("/")[2])]
        volumes.append(
            _secret("registry", REGISTRY_FOLDER, SecretVolumeSource(secretName=cluster.registry_secret, items=login))
        )
    if cluster.buildkit and cluster.buildkit_tls_secret:
        keys = SecretVolumeSource(secretName=cluster.buildkit_tls_secret)
        volumes.append(_secret("buildkit-tls", BUILDKIT_TLS_FOLDER, keys))
    return volumes


def _empty(name: str, path: str, size_bytes: int) -> tuple[Volume, VolumeMount]:
    volume = Volume(name=name, emptyDir=EmptyDirVolumeSource(sizeLimit=_mebi(size_bytes)))
    return volume, VolumeMount(name=name, mountPath=path)


def _caches(order: Order, cluster: BuildCluster) -> tuple[Volume, VolumeMount]:
    """A project sees its own folder of the claim, and no other."""
    if not cluster.cache_claim:
        return _empty("caches", CACHES, cluster.disk_bytes)
    claim = PersistentVolumeClaimVolumeSource(claimName=cluster.cache_claim)
    mount = VolumeMount(name="caches", mountPath=CACHES, subPath=order.project_id)
    return Volume(name="caches", persistentVolumeClaim=claim), mount


def _secret(name: str, path: str, source: SecretVolumeSource) -> tuple[Volume, VolumeMount]:
    """Only where no step of a build runs in the pod: it could read it."""
    return Volume(name=name, secret=source), VolumeMount(name=name, mountPath=path, readOnly=True)


def _mebi(size_bytes: int) -> str:
    return f"{-(-size_bytes >> 20)}Mi"
