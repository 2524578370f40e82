"""One small module an ecosystem; each looks at a snapshot and offers a candidate, or nothing."""

from __future__ import annotations

from typing import Protocol

from shipoff.detector.domain import Candidate, Settings, Snapshot
from shipoff.detector.providers.deno import deno
from shipoff.detector.providers.dotnet import dotnet
from shipoff.detector.providers.elixir import elixir
from shipoff.detector.providers.go import go
from shipoff.detector.providers.java import java
from shipoff.detector.providers.node import node
from shipoff.detector.providers.php import php
from shipoff.detector.providers.python import python
from shipoff.detector.providers.ruby import ruby
from shipoff.detector.providers.rust import rust
from shipoff.detector.providers.shell import shell
from shipoff.detector.providers.sites import sites
from shipoff.detector.providers.static import static


class Provider(Protocol):
    """Pure, and never raises: what is wrong with a manifest becomes a warning, or `missing` when nothing works without it."""

    def __call__(self, snapshot: Snapshot, settings: Settings, /) -> Candidate | None:
        """The candidate with its evidence; None when the ecosystem is not there."""
        ...


PROVIDERS: tuple[Provider, ...] = (deno, dotnet, elixir, go, java, node, php, python, ruby, rust, shell, sites, static)
