"""The edge: static releases, and the routing table that Caddy serves from.

Owns the routes (one for each environment of a project) in its own database, and the release folders on disk. Consumes
`streams.deployment.progress` as group "cdn"; produces nothing. Invariants: a host belongs to one environment; a route changes
all its hosts at once, to a whole release or not at all; a lower fence never replaces a higher one; a release that a route
points at is never removed; whatever Caddy loses is loaded again from the table.
"""
