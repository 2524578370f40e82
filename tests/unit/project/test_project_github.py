"""Signatures and push payloads."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipoff.common.errors import InvalidInput, Unauthenticated
from shipoff.project.github import Position, Push, parse, push_of, verify, why_not, why_stale

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ONE, TWO, THREE, ZEROS = "1" * 40, "2" * 40, "3" * 40, "0" * 40


def payload(**changes: Any) -> dict[str, Any]:
    return {
        "ref": "refs/heads/main",
        "before": ONE,
        "after": TWO,
        "deleted": False,
        "repository": {
            "clone_url": "https://github.com/Ada/Engine.git",
            "default_branch": "main",
            "pushed_at": int(NOON.timestamp()),
        },
        "head_commit": {"message": "Make it go", "timestamp": "2026-03-01T11:00:00+01:00"},
        "pusher": {"name": "ada-l"},
        "sender": {"login": "ada"},
        **changes,
    }


def signed(secret: str, body: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}=" + hmac.new(secret.encode(), body, getattr(hashlib, algorithm)).hexdigest()


def test_the_right_signature_passes() -> None:
    # GitHub's own example: docs.github.com, "Validating webhook deliveries".
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    verify("It's a Secret to Everybody", b"Hello, World!", signature)


@pytest.mark.parametrize(
    ("secret", "signature"),
    [
        ("s", ""),
        ("s", "sha256="),
        ("s", signed("other", b"body")),
        ("s", signed("s", b"other")),
        ("s", signed("s", b"body", "sha1")),
        ("s", signed("s", b"body").removeprefix("sha256=")),
        ("s", signed("s", b"body").upper()),
        ("s", "é"),
        ("", signed("", b"body")),
        ("", ""),
    ],
)
def test_everything_else_is_unauthenticated(secret: str, signature: str) -> None:
    with pytest.raises(Unauthenticated):
        verify(secret, b"body", signature)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b"null",
        b"[" * 10000,
        b"[" * 10000 + b"]" * 10000,
        b'{"a":' * 10000 + b"1" + b"}" * 10000,
        b"\xff\xfe\x00",
        b"payload=%7B%7D",
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_body_that_is_no_json_object_is_invalid_input(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse(body)


def test_a_push_is_read() -> None:
    push = push_of(parse(json.dumps(payload()).encode()))
    assert push == Push(
        repository_key="github.com/ada/engine",
        branch="main",
        default_branch="main",
        commit=TWO,
        before=ONE,
        pushed_at=NOON,
        message="Make it go",
        login="ada",
    )


def test_without_a_push_time_the_commits_time_counts() -> None:
    repository = {"html_url": "https://github.com/ada/engine", "default_branch": "main"}
    assert push_of(payload(repository=repository)).pushed_at == NOON - timedelta(hours=2)


@pytest.mark.parametrize("missing", ["ref", "before", "after", "repository"])
def test_a_missing_field_is_named(missing: str) -> None:
    content = payload()
    del content[missing]
    with pytest.raises(InvalidInput) as raised:
        push_of(content)
    assert raised.value.field == missing


@pytest.mark.parametrize(
    "changes",
    [
        {"ref": 1},
        {"ref": "refs/heads/--upload-pack=x"},
        {"after": "main"},
        {"after": None},
        {"repository": []},
        {"repository": {"clone_url": "file:///etc", "default_branch": "main", "pushed_at": 1}},
        {"repository": {"clone_url": "https://github.com/a/b", "default_branch": "main", "pushed_at": 10**30}},
        {"repository": {"clone_url": "https://github.com/a/b", "default_branch": "main", "pushed_at": "soon"}},
        {"repository": {"clone_url": "https://github.com/a/b", "default_branch": "main", "pushed_at": True}},
        {"repository": {"clone_url": "https://github.com/a/b", "default_branch": "main"}, "head_commit": None},
    ],
)
def test_a_wrong_field_is_invalid_input(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        push_of(payload(**changes))


def test_text_that_no_store_takes_is_cleaned() -> None:
    push = push_of(json.loads(json.dumps(payload(head_commit={"message": "a\0b\ud800" + "x" * 10_000}))))
    assert push.message.startswith("ab?x")
    assert len(push.message) < 5000


_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(list(payload())), _JSON)
def test_whatever_stands_in_a_field_never_crashes(name: str, value: Any) -> None:
    with contextlib.suppress(InvalidInput):
        push_of(payload(**{name: value}))


@pytest.mark.parametrize(
    ("changes", "wanted", "reason"),
    [
        ({}, "", ""),
        ({}, "main", ""),
        ({}, "release", "release is followed"),
        ({"ref": "refs/heads/feature"}, "", "main is followed"),
        ({"ref": "refs/heads/feature"}, "feature", ""),
        ({"ref": "refs/tags/v1"}, "", "tag"),
        ({"deleted": True, "after": ZEROS, "head_commit": None}, "", "deleted"),
    ],
)
def test_only_pushes_to_the_followed_branch_are_deployed(changes: dict[str, Any], wanted: str, reason: str) -> None:
    found = why_not(push_of(payload(**changes)), wanted)
    assert (found == "") == (reason == "")
    assert reason in found


def seen(seconds: int, commit: str, before: str = ZEROS) -> Position:
    return Position(NOON + timedelta(seconds=seconds), commit, before)


@pytest.mark.parametrize(
    ("position", "reason"),
    [
        (None, ""),
        (seen(-1, ONE), ""),
        # A commit that was deployed before, pushed again after something else: a forced push back.
        (seen(-1, TWO), ""),
        (seen(1, THREE), "newer"),
        (seen(0, TWO, ONE), "already"),
        (seen(0, THREE, TWO), "newer"),
        (seen(0, ONE), ""),
    ],
)
def test_an_older_push_and_a_known_one_are_stale(position: Position | None, reason: str) -> None:
    found = why_stale(push_of(payload()), position)
    assert (found == "") == (reason == "")
    assert reason in found
