"""What is read of a repository's own Dockerfile: its images, and build arguments that would carry a secret."""

from __future__ import annotations

import pytest

from shipoff.builder.images.quoting import Refused
from shipoff.builder.images.reading import directives, images, instructions, refuse_secrets


def test_continued_lines_comments_and_here_documents_are_read_as_buildkit_reads_them():
    text = (
        "# a comment\n"
        "FROM debian:12 AS base\n"
        "RUN apt-get update && \\\n"
        "    # between\n"
        "\n"
        "    apt-get install -y git\n"
        "RUN <<EOF bash\n"
        "ARG NOT_AN_INSTRUCTION\n"
        "EOF\n"
        "COPY <<-'A' <<B /x/\n"
        "\tARG NEITHER\n"
        "\tA\n"
        "ARG NOR_THIS\n"
        "B\n"
        "cmd ['x']\n"
    )
    found = instructions(text)
    assert [(one.name, one.line) for one in found] == [("FROM", 2), ("RUN", 3), ("RUN", 7), ("COPY", 10), ("CMD", 15)]
    assert found[1].rest == "apt-get update && apt-get install -y git"


def test_the_escape_directive_is_heeded():
    text = "# escape=`\nFROM a\nRUN dir c:\\\nARG TOKEN\nRUN one `\n two\n"
    assert [one.name for one in instructions(text)] == ["FROM", "RUN", "ARG", "RUN"]


def test_the_syntax_directive_counts_at_the_top_only():
    assert directives("# syntax=docker/dockerfile:1\nFROM a\n").syntax == "docker/dockerfile:1"
    assert directives("FROM a\n# syntax=docker/dockerfile:1\n").syntax == ""


@pytest.mark.parametrize(
    ("line", "where"),
    [("ARG TOKEN", 2), ("arg A=1 TOKEN", 2), ("ARG A=1 \\\n  TOKEN", 2), ("\nARG\tTOKEN", 3)],
)
def test_a_variable_of_the_project_s_as_a_build_argument_is_refused_by_its_line(line, where):
    with pytest.raises(Refused, match=rf"line {where} .*TOKEN.*--mount=type=secret,id=TOKEN,env=TOKEN"):
        refuse_secrets(instructions(f"FROM a\n{line}\n"), {"TOKEN"})


@pytest.mark.parametrize("line", ["ARG OTHER", "ARG TOKEN=default", "RUN echo ARG TOKEN", "ENV TOKEN=x", "# ARG TOKEN"])
def test_what_carries_no_secret_is_not_refused(line):
    refuse_secrets(instructions(f"FROM a\n{line}\n"), {"TOKEN"})


def test_images_are_named_as_they_are_written_without_stages_and_with_defaults_filled_in():
    text = (
        "ARG VERSION=3.13\n"
        "ARG UNKNOWN\n"
        "FROM --platform=$BUILDPLATFORM python:${VERSION}-slim AS build\n"
        "FROM ghcr.io/x/y@sha256:abc\n"
        "FROM build AS last\n"
        "FROM scratch\n"
        "FROM ${UNKNOWN}\n"
        "FROM ${MISSING:-alpine:3}\n"
        "COPY --from=build /a /b\n"
        "COPY --from=0 /a /b\n"
        "COPY --chown=1:1 --from=busybox:1 /bin/busybox /b\n"
        "RUN --mount=type=bind,from=tools:2,target=/t --mount=type=cache,target=/c true\n"
    )
    assert images(instructions(text)) == ["python:3.13-slim", "ghcr.io/x/y@sha256:abc", "alpine:3", "busybox:1", "tools:2"]


@pytest.mark.parametrize(
    "image", ["x=/proc/self/cwd/..", "x=local", "=x", "--output", "/etc", "../x", "X=docker-image://y", "oci-layout://x?y=1"]
)
def test_what_is_no_reference_is_no_image_so_that_no_argument_is_made_of_it(image):
    text = (
        f"ARG NAME={image}\n"
        f"FROM {image}\n"
        "FROM $NAME AS b\n"
        f"COPY --from={image} /a /b\n"
        f"RUN --mount=type=bind,from={image},target=/t true\n"
        "FROM python:3\n"
    )
    assert images(instructions(text)) == ["python:3"]
