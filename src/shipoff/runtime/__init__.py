"""Workloads: what shall run for each deployment, and what does.

Owns the desired state (workloads) and the observed one (instances) in its own database; the driver brings the first about.
Streams: out `streams.runtime.events` (WorkloadReady, WorkloadEndpointsChanged, WorkloadFailed, WorkloadStopped) through the
outbox, and `streams.logs.ingest` (the lines of the apps) straight from the log agent.

Invariants: an instance is recorded before it is started, so whatever runs can be found again and nothing runs twice; a port
belongs to one live instance (a unique index); the set of ready instances is announced with a revision that only grows; a
platform that dies leaves its apps running, and the next one adopts them.
"""
