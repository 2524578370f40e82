"""Every call of the platform's has a deadline, because there is one place that opens channels, and few calls say otherwise."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import shipoff

SOURCE = Path(shipoff.__file__).parent
_OPENING = {"insecure_channel", "secure_channel", "Channel"}
# They last as long as what they follow; what bounds them is in ARCHITECTURE.md.
_LONG_LIVED = {"Session", "FollowLogs", "WatchDeployment", "RunCommand"}


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Every call of a method or a function of a module that may concern a channel: in which file, of what name."""
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text()
        if "contracts" not in path.parts and any(word in text for word in ("channel", "Channel", "timeout=")):
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    yield str(path.relative_to(SOURCE)), node.func.attr, node


def test_channels_are_opened_where_their_calls_are_given_a_deadline_and_nowhere_else():
    assert [(file, name) for file, name, _ in calls() if name in _OPENING] == [
        ("common/calls.py", "secure_channel"),
        ("common/calls.py", "insecure_channel"),
    ]


def test_only_streams_that_follow_something_have_no_deadline():
    endless = {
        name
        for _, name, call in calls()
        for keyword in call.keywords
        if keyword.arg == "timeout" and isinstance(keyword.value, ast.Constant) and keyword.value.value is None
    }
    assert endless == _LONG_LIVED
