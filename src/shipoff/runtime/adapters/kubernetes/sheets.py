"""From the cluster's objects to files of the GitOps repository: Secrets are sealed on the way, and never otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache, partial
from typing import Any

from lightkube.resources.core_v1 import Secret

from shipoff.runtime.adapters.gitops.sealing import Seal
from shipoff.runtime.adapters.kubernetes.desired import Desired, Key, applied, key_of
from shipoff.runtime.manifests import Object
from shipoff.runtime.manifests.canonical import canonical
from shipoff.runtime.manifests.folder import PROJECT_FOLDER, Mark, Sheet


def marks(desired: Desired, seal: Seal, *, route: bool) -> list[Mark]:
    """Every file of a workload; with `route` also those of its Service and Ingress."""
    environment = desired.names.environment
    parts: list[tuple[str, Mapping[Key, str]]] = [(PROJECT_FOLDER, desired.project), (environment, desired.release)]
    if route:
        parts.append((environment, desired.route))
    return [_mark(folder, key, print_, seal) for folder, part in parts for key, print_ in part.items()]


def sheets(objects: Iterable[Object], folder: str, seal: Seal) -> list[Sheet]:
    """The objects' files with their contents."""
    return [Sheet(_mark(folder, key_of(one), applied(one), seal), cache(partial(_content, one, seal))) for one in objects]


def _mark(folder: str, key: Key, fingerprint: str, seal: Seal) -> Mark:
    kind, _, name = key
    if issubclass(kind, Secret):
        return Mark(f"{folder}/sealedsecret-{name}.yaml", fingerprint, seal.id)
    return Mark(f"{folder}/{kind.__name__.lower()}-{name}.yaml", fingerprint)


def _content(obj: Object, seal: Seal) -> bytes:
    document: dict[str, Any] = obj.to_dict()
    return canonical(seal.sealed(document) if isinstance(obj, Secret) else document)
