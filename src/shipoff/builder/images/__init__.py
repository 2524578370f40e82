"""The second executor: a plan, or the repository's own Dockerfile, built by BuildKit into an image.

`dockerfile` and `reading` are pure; `bases` decides what images are built on; `buildx` runs the program; `executor` is what
the pipeline calls.
"""
