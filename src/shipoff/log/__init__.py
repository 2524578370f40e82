"""The lines of builds, apps and the platform itself: stored, read page by page, followed live.

Owns chunks of lines (compressed) and their catalogue in its own database. Consumes `streams.logs.ingest` as group "log";
produces nothing.
Invariants: the positions of a deployment's lines grow by one from 1, in the order of their commits; a batch that is delivered
twice is stored once; lines that were lost on the way are counted in a line of the platform's own. Whoever follows sees every
line once, in order, or is told how many were left out.
"""
