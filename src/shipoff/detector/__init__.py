"""Detector: a pure function from a snapshot of a source to the plan to build and run it.

Owns nothing: no database, no stream, no file. The builder sends every path and the contents of manifests, lock files, framework
configurations and the Python files an app may start from; what is not sent is treated as unread, never as absent.

Invariants: `handlers.detect` never raises and gives the same bytes for the same snapshot and settings; a project's settings win
over whatever was found; what a user did wrong comes back as a Problem that says what was seen and what to add.

In a plan's commands `$PORT` and `${PORT}` stand for the port, which only the runtime knows; nothing else is expanded.
"""
