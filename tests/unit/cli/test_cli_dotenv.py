import pytest

from shipoff.cli.dotenv import parse
from shipoff.cli.errors import ExitCode, UsageFailure


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A=1", {"A": "1"}),
        ("\ufeffA=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("export  A = spaced  \n", {"A": "spaced"}),
        ("# comment\n\n  # another\nA=1 # why\n", {"A": "1"}),
        ("A=has#hash", {"A": "has#hash"}),
        ("A=# only a comment", {"A": ""}),
        ("A=\nB=", {"A": "", "B": ""}),
        ("A='as # it $is \\n'", {"A": "as # it $is \\n"}),
        ('A="line\\nbreak \\"quoted\\" \\\\ \\$" # comment', {"A": 'line\nbreak "quoted" \\ $'}),
        ('KEY="-----BEGIN\nabc\n-----END"\nB=2', {"KEY": "-----BEGIN\nabc\n-----END", "B": "2"}),
        ('A="unknown \\x escape"', {"A": "unknown \\x escape"}),
        ("A=postgres://u:p@h/db?x=1&y=2", {"A": "postgres://u:p@h/db?x=1&y=2"}),
        ("A=1\nA=2", {"A": "2"}),
        ("", {}),
    ],
)
def test_reads_the_dialect(text: str, expected: dict[str, str]) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "line"),
    [("A=1\nno assignment secret", 2), ("A='open\nB=2", 1), ('A="x" secret', 1), ("\n\n1A=x", 3), ("=x", 1)],
)
def test_a_wrong_line_is_named_without_its_content(text: str, line: int) -> None:
    with pytest.raises(UsageFailure, match=f"line {line} ") as caught:
        parse(text)
    assert caught.value.code is ExitCode.USAGE
    assert "secret" not in caught.value.message
