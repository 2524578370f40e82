"""One small module an ecosystem; each looks at a snapshot and offers a candidate, or nothing."""

from __future__ import annotations

from typing import Protocol

from shipoff.detector.domain import Candidate, Snapshot


class Provider(Protocol):
    """Pure, and never raises: what is wrong with a manifest becomes a warning, or `missing` when nothing works without it."""

    def __call__(self, snapshot: Snapshot) -> Candidate | None:
        """The candidate with its evidence; None when the ecosystem is not there."""
        ...
