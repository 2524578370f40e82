"""What a build that failed in BuildKit failed of, and whose it is to mend: the user's file or command, or the platform's. Pure.

BuildKit shows a mistake of a Dockerfile with its place (github.com/moby/buildkit, solver/errdefs/source.go): a line
"Dockerfile:2", the lines around with ">>>" before those meant, and "ERROR: … failed to solve: …".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from shipoff.builder.assignment import BuildError, Kind
from shipoff.builder.images.buildx import platform_error
from shipoff.builder.images.progress import Failure, Progress

_PLACE = re.compile(r"\S+:(\d+)")
_MARKED = re.compile(r"\d+ \| >>> (.*)")
_ERROR = re.compile(r"ERROR: (?:failed to build: )?failed to solve: (?:dockerfile parse error on line (\d+): )?(.*)")
_EMPTY = "Dockerfile cannot be empty"
# What a registry says of a name that it does not have, or not for us.
_NOT_THERE = ("not found", "does not exist", "access denied", "invalid reference format")
_METADATA = re.compile(r"\[internal\] load metadata for (\S+)")
_SHOWN = 200
_KILLED = 128 + 9


@dataclass(frozen=True)
class _Mistake:
    """Where a Dockerfile is wrong (line 0: nobody says), the line itself, and BuildKit's words about it."""

    line: int
    text: str
    words: str


def judged(progress: Progress, steps: Mapping[str, str], *, own_file: str) -> BuildError:
    """The error of a failed build. `steps`: stage → the plan's step; `own_file`: the source's Dockerfile, if any."""
    failure = progress.failure
    mistake = _mistake(progress.said) if own_file else None
    if mistake is not None and (failure is None or _names_no_image(failure)):
        return BuildError(Kind.BUILD_FAILURE_PLAN, _shown(mistake, own_file), step="plan")
    if failure is None:
        return platform_error(f"the image could not be built: {progress.words or 'buildx said nothing'}")
    if failure.stage == "init" and steps:
        return platform_error(f"the base image has no init, and none could be installed ({failure.message}): add tini to it")
    step = steps.get(failure.stage, failure.stage)
    if failure.code is not None:
        return BuildError(Kind.BUILD_FAILURE_COMMAND, _ended(failure), step=step or "image")
    if failure.instruction and not failure.shown.startswith("FROM "):
        return BuildError(Kind.BUILD_FAILURE_COMMAND, f"`{failure.shown}` failed: {failure.message}", step=step or "image")
    if "push" in failure.shown or "export" in failure.shown:
        return BuildError(Kind.BUILD_FAILURE_PLATFORM, f"the image could not be pushed: {failure.message}", step="push")
    return platform_error(f"the image could not be built: {failure.shown}: {failure.message}")


def _mistake(said: list[str]) -> _Mistake | None:
    """What buildx said about the file, if it did."""
    error = next((found for line in reversed(said) if (found := _ERROR.fullmatch(line))), None)
    if error is None:
        return None
    place = next((int(found[1]) for line in said if (found := _PLACE.fullmatch(line))), int(error[1] or 0))
    if not place and _EMPTY not in error[2]:
        return None
    marked = next((found[1].strip() for line in said if (found := _MARKED.fullmatch(line))), "")
    return _Mistake(place, marked, error[2])


def _names_no_image(failure: Failure) -> bool:
    """The file names an image that is not there; a registry that does not answer is no mistake of the file's."""
    return bool(_METADATA.match(failure.shown)) and any(words in failure.message for words in _NOT_THERE)


def _shown(mistake: _Mistake, own_file: str) -> str:
    place = f"{own_file}, line {mistake.line}" if mistake.line else own_file
    text = f" `{mistake.text[:_SHOWN]}`" if mistake.text else ""
    return f"{place}{text}: {mistake.words}"


def _ended(failure: Failure) -> str:
    killed = ": it was killed, for want of memory as a rule" if failure.code == _KILLED else ""
    return f"`{failure.shown}` exited with code {failure.code}{killed}"
