"""A project's folder in the GitOps repository: pure functions from the files it has to those it should have.

`_project/` holds the project's objects and `<environment>/` each environment's, a file an object. The drivers of the cluster
call these for each commit, again and again where somebody else's commit was faster. An older deployment takes nothing from a
newer one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import yaml

from shipoff.runtime.manifests.marks import APPLIED, DEPLOYMENT

# Path inside the project's folder → content.
Files = Mapping[str, bytes]
Change = Callable[[Files], Files]

# No environment is called so: its folder's name is a DNS label.
PROJECT_FOLDER = "_project"
# What a SealedSecret's values were sealed for.
SEALED_FOR = "shipoff.dev/sealed-for"
_RUN = ("Deployment", "CronJob")
_CONFIGURATION = ("ConfigMap", "Secret", "SealedSecret")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Held:
    """What a file says about itself."""

    kind: str = ""
    name: str = ""
    # The deployment that it was written for last; empty: the whole environment's, or the project's.
    owner: str = ""
    fingerprint: str = ""
    sealed_for: str = ""
    # The configuration that it refers to by name.
    uses: frozenset[str] = frozenset()

    @property
    def ours(self) -> bool:
        """Whether the platform wrote it; what somebody else put there is left alone."""
        return bool(self.fingerprint)


@dataclass(frozen=True)
class Mark:
    """A file as it should be, without its content."""

    path: str
    fingerprint: str
    sealed_for: str = ""

    def is_in(self, held: Held | None, deployment_id: str) -> bool:
        """Whether a file says the same already, or what a newer deployment wants."""
        if held is None:
            return False
        same = (held.fingerprint, held.sealed_for) == (self.fingerprint, self.sealed_for)
        return same or held.owner > deployment_id


@dataclass(frozen=True)
class Sheet:
    """A file as it should be. Sealed values differ each time that its content is made."""

    mark: Mark
    content: Callable[[], bytes]


@lru_cache(maxsize=8192)
def read(content: bytes) -> Held:
    """A file in a few words; nothing of one that is no manifest."""
    try:
        document = yaml.load(content, _LOADER)  # noqa: S506 - a safe loader
    except yaml.YAMLError:
        return Held()
    if not isinstance(document, dict) or not isinstance(document.get("metadata"), dict):
        return Held()
    meta = document["metadata"]
    labels, notes = meta.get("labels") or {}, meta.get("annotations") or {}
    return Held(
        kind=str(document.get("kind", "")),
        name=str(meta.get("name", "")),
        owner=str(labels.get(DEPLOYMENT, "")),
        fingerprint=str(notes.get(APPLIED, "")),
        sealed_for=str(notes.get(SEALED_FOR, "")),
        uses=frozenset(_references(document)) if document.get("kind") in _RUN else frozenset(),
    )


def _references(node: Any) -> Iterable[str]:
    """The names in every `envFrom` below."""
    if isinstance(node, dict):
        for source in node.get("envFrom") or ():
            for ref in ("configMapRef", "secretRef"):
                if ref in source:
                    yield str(source[ref]["name"])
        node = list(node.values())
    if isinstance(node, list):
        for one in node:
            yield from _references(one)


def read_all(files: Files) -> dict[str, Held]:
    """Every file in a few words."""
    return {path: read(content) for path, content in files.items()}


def owner_of(held: Mapping[str, Held], environment: str) -> str:
    """The newest deployment that an environment's files are of; empty: none."""
    return max((one.owner for path, one in held.items() if path.startswith(f"{environment}/")), default="")


def with_sheets(files: Files, sheets: Iterable[Sheet], deployment_id: str) -> Files:
    """The files with the sheets among them, but for those that a newer deployment has written."""
    result = dict(files)
    for one in sheets:
        there = result.get(one.mark.path)
        if there is None or not one.mark.is_in(read(there), deployment_id):
            result[one.mark.path] = one.content()
    return result


def without(files: Files, deployment_id: str, kinds: Collection[str], kept: Collection[str] = ()) -> Files:
    """The files without those of a deployment that are of these kinds, `kept` paths left alone."""
    return {
        path: content
        for path, content in files.items()
        if path in kept or (one := read(content)).owner != deployment_id or one.kind not in kinds
    }


def tidied(files: Files) -> Files:
    """The files without configuration that nothing refers to; none of the platform's where nothing runs."""
    held = read_all(files)
    used = {name for one in held.values() for name in one.uses}
    runs = any(one.ours and one.kind in _RUN for one in held.values())
    gone = {
        path for path, one in held.items() if one.ours and (not runs or (one.kind in _CONFIGURATION and one.name not in used))
    }
    return {path: content for path, content in files.items() if path not in gone}


def replaced(files: Files, sheets: Collection[Sheet], *, environment: str, deployment_id: str) -> Files:
    """The files with just these in an environment's folder; as they are where that is a newer deployment's."""
    if owner_of(read_all(files), environment) > deployment_id:
        return files
    paths, own = {one.mark.path for one in sheets}, f"{environment}/"
    gone = {path for path, text in files.items() if path.startswith(own) and path not in paths and read(text).ours}
    return with_sheets({path: text for path, text in files.items() if path not in gone}, sheets, deployment_id)
