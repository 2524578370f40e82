"""Builds and their attempts: starts builders, holds their sessions, stores what they leave.

Streams: out `streams.deployment.progress` (BuildStarted, BuildSucceeded, BuildFailed, through the outbox) and
`streams.logs.ingest` (a build's lines).

It holds: an attempt ends once, and its event is written in the same transaction; a higher attempt ends a lower one; an
attempt that runs has a living builder or is failed; when an attempt has ended nothing of it is left, neither process nor
file; an artifact is visible under its key only when its bytes have the digest it is named by.
"""
