"""Who may call whom: one table, held against the code by tests, by every server that has certificates, and by the chart.

Facts return on streams only, so nobody calls in a circle.
"""

from __future__ import annotations

from collections.abc import Mapping

SERVICES = ("gateway", "identity", "project", "orchestrator", "build", "detector", "runtime", "log", "cdn", "worker")
CALLS: Mapping[str, frozenset[str]] = {
    "gateway": frozenset({"identity", "project", "orchestrator", "detector", "runtime", "log", "cdn", "worker"}),
    "orchestrator": frozenset({"build", "runtime", "cdn", "log"}),
    "build": frozenset({"detector"}),
}
# What builders call: they are no services and hold no certificate; the token of their session decides.
FOR_BUILDERS = frozenset({"shipoff.build.v1.BuilderService"})


def callers_of(service: str) -> frozenset[str]:
    """The services that may call this one."""
    return frozenset(caller for caller, called in CALLS.items() if service in called)
