"""Names on the cluster: DNS labels (RFC 1035, which Services need), the same each time, never two things under one."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from shipoff.common.errors import InvalidInput
from shipoff.runtime.domain import WEB, Workload

_LONGEST = 63
_HASH = 10
_LONGEST_GIVEN = 253
_LABEL = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
# Where Kubernetes keeps its own, and names that read as if they were the platform's.
_RESERVED = frozenset({"default", "kube-system", "kube-public", "kube-node-lease", "shipoff"})


def digest_of(*parts: str | bytes) -> str:
    """Ten hexadecimal digits over the parts; where one ends matters."""
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "big") + data)
    return whole.hexdigest()[:_HASH]


def dns_label(*parts: str) -> str:
    """The parts joined with dashes; what is no DNS label, or too long, is made one and told apart by a hash at its end."""
    plain = "-".join(parts)
    if len(plain) <= _LONGEST and _LABEL.fullmatch(plain):
        return plain
    kept = re.sub(r"^[^a-z]+|[^a-z0-9]+", "-", plain.lower()).strip("-") or "x"
    return f"{kept[: _LONGEST - _HASH - 1].rstrip('-')}-{digest_of(*parts)}"


def checked_project(name: str) -> str:
    """The project's name. Raises InvalidInput for one that is the cluster's own, or no name at all."""
    if not name or len(name) > _LONGEST_GIVEN:
        raise InvalidInput(f"a project's name has 1 to {_LONGEST_GIVEN} characters", field="workload.project_name")
    if name in _RESERVED or name.startswith("kube-"):
        raise InvalidInput(
            f"{name} is a name of the cluster's own", field="workload.project_name", remedy="choose another name"
        )
    return name


@dataclass(frozen=True)
class Names:
    """What a workload's objects are called."""

    namespace: str
    # The release: the same for the same image, commands, variables and resources.
    release: str
    # The Service, the Ingress and the PodDisruptionBudget.
    environment: str
    config: str
    secret: str

    def process(self, name: str) -> str:
        """The Deployment of a process."""
        return dns_label(self.environment, name, self.release)


def names_of(workload: Workload, *, platform: str, config: str, secret: str) -> Names:
    """The names; `config` and `secret` stand for the contents of the ConfigMap and the Secret.

    No two platforms share a namespace.

    Raises InvalidInput for a project's name that is reserved.
    """
    project = checked_project(workload.project_name)
    commands = [part for one in workload.runnable for part in (one.name, *one.argv, "")]
    runs = (str(workload.cpu_millis), str(workload.memory_bytes), workload.health_path, str(workload.ready_timeout_s))
    release = digest_of(workload.artifact.object_key, config, secret, *runs, *commands)
    environment = dns_label(workload.environment)
    return Names(
        namespace=dns_label("app", project, digest_of(platform, workload.project_id)),
        release=release,
        environment=environment,
        config=dns_label(environment, "config", config),
        secret=dns_label(environment, "secret", secret),
    )


def serves(process: str) -> bool:
    """Whether requests are sent to a process of this name."""
    return process == WEB
