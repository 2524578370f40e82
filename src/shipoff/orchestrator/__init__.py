"""Deployments: their states, the queue and the budget. The only writer of deployment state.

Reads streams.deployment.queue, streams.deployment.progress and streams.runtime.events; writes streams.deployment.progress.
A state changes only by `transitions.decide`, under the row's lock and version. What has to be done outside is written as an
instruction in the same transaction and performed under a lease with a fencing token, as often as it takes.
Held by the database: at most one PRODUCTION and one BUILDING per (project, environment); never more reserved than the budget.
"""
