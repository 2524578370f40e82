"""Projects, environments, sealed variables, uploaded sources and the ledger of webhook deliveries.

Owns what a deployment is made from. Writes `streams.deployment.queue` (DeploymentRequested, ProjectDeleted), reads no stream.
Invariants: a name and a host belong to one live project; a request, its configuration and its event are one transaction;
an idempotency key and a delivery id do their work once; variables lie sealed under the project's data key.
"""
