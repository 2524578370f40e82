"""What a builder is told, and how a build fails."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from shipoff.builder.images.settings import ImageSettings
from shipoff.common.sandbox import Sandbox
from shipoff.contracts.events.v1 import events_pb2

# In the environment of everything that a build starts: names the attempt.
MARK = "SHIPOFF_BUILD"
MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True)
class Limits:
    """What a build may use beyond what was reserved for it."""

    # Where the deployment reserved none.
    memory_bytes: int = 2 * GIB
    processes: int = 512
    # Of the work folder.
    disk_bytes: int = 8 * GIB
    # Left free on the disk for everybody else.
    free_bytes: int = 256 * MIB
    # A step's output: beyond the total it is left out, faster than the rate it waits.
    output_bytes: int = 16 * MIB
    output_bytes_per_s: int = 4 * MIB
    source_bytes: int = 2 * GIB
    source_files: int = 100_000
    artifact_bytes: int = 2 * GIB


@dataclass(frozen=True)
class Assignment:
    """One attempt's builder: where it reports, where it works, and as whom."""

    address: str
    token: str
    # Names the attempt, "<deployment>/<attempt>": a mark in every step's environment.
    mark: str
    # Owned by the tenant's account.
    work: str
    caches: str
    # The tenant's account; None: this process's own.
    uid: int | None
    # Where programs are found; python3 is the interpreter that apps are built for.
    path: str
    # Proxies, certificates and package indexes of the operator's, for the steps.
    environment: Mapping[str, str] = field(default_factory=dict)
    # Hosts that repositories may be cloned from although their addresses are private: "host" or "host:port".
    allow_hosts: tuple[str, ...] = ()
    # Seconds without the service after which the build is given up.
    patience_s: float = 120.0
    limits: Limits = field(default_factory=Limits)
    # Signed the certificate that is shown at `address` (PEM); empty: none is shown.
    authority: str = ""
    # What programs run inside; None: nothing.
    sandbox: Sandbox | None = None
    # None: builds run on this machine, natively.
    images: ImageSettings | None = None

    @property
    def work_folder(self) -> Path:
        """Everything this build writes but its caches."""
        return Path(self.work)

    def to_json(self) -> str:
        """What the service writes to the builder's standard input."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Assignment:
        """The opposite of to_json. Raises ValueError when it is cut short."""
        values = json.loads(text)
        values["limits"] = Limits(**values["limits"])
        if values["sandbox"] is not None:
            values["sandbox"] = Sandbox(**values["sandbox"])
        values["allow_hosts"] = tuple(values["allow_hosts"])
        if images := values.get("images"):
            values["images"] = ImageSettings(**{**images, "platforms": tuple(images["platforms"])})
        return cls(**values)


Kind = events_pb2.BuildFailure


class BuildError(Exception):
    """The build ends without an artifact: `reason` is one sentence for the user, with what to do."""

    def __init__(self, kind: events_pb2.BuildFailure.ValueType, reason: str, *, step: str = "") -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.step = step


def source_error(reason: str) -> BuildError:
    """The source could not be fetched."""
    return BuildError(Kind.BUILD_FAILURE_SOURCE, reason, step="clone")


def artifact_error(reason: str) -> BuildError:
    """The artifact is missing or refused."""
    return BuildError(Kind.BUILD_FAILURE_ARTIFACT, reason, step="pack")
