"""BuildKit's progress as log lines: commands, cached steps, output with secrets masked, and what failed."""

from __future__ import annotations

import base64
import json
from typing import Any

from shipoff.builder.images.progress import Failure, Line, Progress
from shipoff.builder.masking import Masker

SECRET = "correct-horse"
SHOWN = {("deps", 3): "npm ci", ("build", 3): "npm run build"}


def progress(shown: dict[tuple[str, int], str] | None = SHOWN) -> Progress:
    return Progress(Masker([SECRET]), {"deps": "install", "build": "build"}, shown)


def vertex(name: str, **state: Any) -> bytes:
    return json.dumps({"vertexes": [{"digest": name, "name": name, **state}]}).encode()


def log(name: str, text: str, stream: int = 1) -> bytes:
    return json.dumps({"logs": [{"vertex": name, "stream": stream, "data": base64.b64encode(text.encode()).decode()}]}).encode()


def test_a_command_is_shown_once_when_it_starts_and_names_its_step():
    seen = progress()
    assert seen.feed(vertex("[deps 3/3] RUN x")) == []
    assert seen.feed(vertex("[deps 3/3] RUN x", started="t")) == [Line("▸ install: npm ci")]
    assert seen.feed(vertex("[deps 3/3] RUN x", started="t", completed="t")) == []
    assert seen.step == "install"


def test_a_cached_command_says_so_and_what_is_not_a_command_says_nothing():
    seen = progress()
    assert seen.feed(vertex("[deps 3/3] RUN x", cached=True, started="t")) == [Line("  cached: npm ci")]
    for name in (
        "[internal] load .dockerignore",
        "[deps 1/3] COPY [a, /app/]",
        "[init 2/2] RUN x",
        "resolve image config for x",
    ):
        assert seen.feed(vertex(name, started="t")) == []


def test_every_instruction_of_a_file_of_the_user_s_own_is_shown():
    seen = progress(None)
    assert seen.feed(vertex("[stage-0 2/3] RUN make", started="t")) == [Line("▸ stage-0: RUN make")]
    assert seen.feed(vertex("[linux/arm64 web 2/3] COPY . .", started="t")) == [Line("▸ web: COPY . . (linux/arm64)")]


def test_output_keeps_its_channel_and_a_secret_is_masked_even_across_pieces():
    seen = progress()
    assert seen.feed(log("a", f"one {SECRET[:6]}")) == []
    assert seen.feed(log("a", f"{SECRET[6:]}\ntwo")) == [Line("one ***", "stdout")]
    assert seen.feed(log("a", "bad\n", stream=2)) == [Line("bad", "stderr")]
    assert seen.end() == [Line("two", "stdout")]


def test_the_first_error_counts_and_what_is_cancelled_for_it_does_not():
    seen = progress()
    seen.feed(vertex("[build 3/3] RUN y", started="t", error="process y did not complete: context canceled"))
    seen.feed(
        vertex("[deps 3/3] RUN x", started="t", error=f'process "x {SECRET}" did not complete successfully: exit code: 7')
    )
    seen.feed(vertex("[init 2/2] RUN z", started="t", error="another"))
    words = 'process "x ***" did not complete successfully: exit code: 7'
    assert seen.failure == Failure("deps", "npm ci", 7, words, instruction=True)


def test_what_buildx_says_outside_its_progress_is_kept_for_the_reason():
    seen = progress()
    for line in (b"", b"not json", b"[1]", f"ERROR: no such host {SECRET}".encode()):
        assert seen.feed(line) == []
    assert seen.words == "not json [1] ERROR: no such host ***"


def test_nonsense_is_passed_over():
    seen = progress()
    assert seen.feed(b'{"vertexes": null, "logs": [{"vertex": "a", "data": "!"}]}') == []
    assert seen.failure is None
