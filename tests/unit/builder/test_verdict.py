"""Whose a failure in BuildKit is: a mistake of the user's Dockerfile with its place, a command's, or the platform's."""

from __future__ import annotations

import json

import pytest

from shipoff.builder.assignment import BuildError, Kind
from shipoff.builder.images.progress import Progress
from shipoff.builder.images.verdict import judged
from shipoff.builder.masking import Masker

# As buildx 0.13 and BuildKit 0.26 print them.
UNKNOWN = """Dockerfile:2
--------------------
   1 |     FROM scratch
   2 | >>> FOO hush-hush
   3 |
--------------------
ERROR: failed to build: failed to solve: dockerfile parse error on line 2: unknown instruction: FOO (did you mean FROM?)"""
HEREDOC = """Dockerfile:2
--------------------
   1 |     FROM scratch
   2 | >>> RUN <<EOF
   3 | >>> abc
--------------------
ERROR: failed to solve: unterminated heredoc"""
EMPTY = "ERROR: failed to build: failed to solve: the Dockerfile cannot be empty"
NO_IMAGE = """Dockerfile:1
--------------------
   1 | >>> FROM 127.0.0.1:5100/nothing:1
--------------------
ERROR: failed to build: failed to solve: 127.0.0.1:5100/nothing:1: failed to resolve source metadata: not found"""
NO_ENGINE = "ERROR: Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"


def verdict(said: str, vertex: str = "", error: str = "", *, own_file: str = "Dockerfile") -> BuildError:
    progress = Progress(Masker(["hush-hush"]), {}, None)
    if vertex:
        status = {"vertexes": [{"digest": "d", "name": vertex, "started": "t", "error": error}]}
        progress.feed(json.dumps(status).encode())
    for line in said.splitlines():
        progress.feed(line.encode())
    return judged(progress, {}, own_file=own_file)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (UNKNOWN, "build/Dockerfile, line 2 `FOO ***`: unknown instruction: FOO (did you mean FROM?)"),
        (HEREDOC, "build/Dockerfile, line 2 `RUN <<EOF`: unterminated heredoc"),
        (EMPTY, "build/Dockerfile: the Dockerfile cannot be empty"),
    ],
)
def test_what_buildkit_cannot_read_is_the_user_s_with_its_line(said: str, reason: str):
    error = verdict(said, own_file="build/Dockerfile")
    assert (error.kind, error.reason) == (Kind.BUILD_FAILURE_PLAN, reason)


def test_the_platform_s_own_file_is_never_the_user_s_mistake():
    assert verdict(UNKNOWN, own_file="").kind == Kind.BUILD_FAILURE_PLATFORM


def test_an_engine_that_is_away_is_the_platform_s():
    assert verdict(NO_ENGINE).kind == Kind.BUILD_FAILURE_PLATFORM


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("127.0.0.1:5100/nothing:1: not found", Kind.BUILD_FAILURE_PLAN),
        ("pull access denied, repository does not exist", Kind.BUILD_FAILURE_PLAN),
        ("dial tcp 127.0.0.1:5100: connect: connection refused", Kind.BUILD_FAILURE_PLATFORM),
    ],
)
def test_an_image_that_is_not_there_is_the_file_s_and_a_registry_that_is_away_the_platform_s(words: str, kind: int):
    assert verdict(NO_IMAGE, "[internal] load metadata for 127.0.0.1:5100/nothing:1", words).kind == kind


def test_an_instruction_of_a_file_with_one_stage_is_the_user_s():
    error = verdict("", "[2/3] COPY nowhere /x", '"/nowhere": not found')
    assert (error.kind, error.reason) == (Kind.BUILD_FAILURE_COMMAND, '`COPY nowhere /x` failed: "/nowhere": not found')


def test_an_image_that_could_not_be_fetched_is_the_platform_s():
    assert verdict("", "[1/3] FROM docker.io/library/x@sha256:0", "i/o timeout").kind == Kind.BUILD_FAILURE_PLATFORM
