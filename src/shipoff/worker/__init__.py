"""What happens after the fact: outgoing webhooks, and the removal of artifacts that are kept no longer.

Owns: hooks, their deliveries, and the list of objects to remove (database `worker`).
Reads: streams.deployment.progress, streams.runtime.events (group `worker`). Writes no stream, but gives any service's dead
letters back to the group that failed, when the platform's owners say so.

Invariants: one delivery for each (hook, event), with the same id at every try; at most one delivery to a hook under way; a
result is recorded only by whoever holds the hook's lease; a delivery is sent to an address that was checked, and to no other.
"""
