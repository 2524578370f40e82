"""Who somebody is and what a team did: users, teams, roles, API tokens, the audit log.

Streams: none.
Invariants, held by its database:
- a token is stored as the SHA-256 of its secret, never as the secret;
- the first owner is made once, however many ask at the same time;
- a team that has members keeps at least one owner;
- the audit log only grows.
"""
