"""The one-machine platform: PostgreSQL, Valkey and Caddy out of Python wheels, every service, one command.

Owns the data folder's layout, the settings file and the lock that keeps one platform per folder. Invariants: nothing
listens on a TCP port but Caddy; as root the three servers run as `nobody`; a server is signalled only after its identity
was verified; whatever is started ends with the platform.
"""
