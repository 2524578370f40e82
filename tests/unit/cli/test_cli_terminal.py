import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipoff.cli.terminal import safe


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m\x1b[0m"),
        ("\x1b[1;38;5;208mx", "\x1b[1;38;5;208mx\x1b[0m"),
        ("\x1b[38;2;1;2;3mx", "\x1b[38;2;1;2;3mx\x1b[0m"),
        ("\x1b[38;9;31mx", "\x1b[31mx\x1b[0m"),
        ("\x1b[8mconceal\x1b[5mblink", "concealblink"),
        ("\x1b[2J\x1b[Hcleared", "cleared"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]8;;javascript:alert(1)\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]52;c;Y2xpcA==\x07x", "x"),
        ("\x1bP1;1|payload\x1b\\x", "x"),
        ("\x9b31mx", "\x1b[31mx\x1b[0m"),
        ("\x9d0;title\x9cx", "x"),
        ("\x1bcreset", "reset"),
        ("\x1b]0;never closed", ""),
        ("10%\r50%\r100%\r\n", "100%"),
        ("a\x00b\x07c\x08d\x7fe\tf", "abcde\tf"),
        ("evil\u202etxt.exe", "eviltxt.exe"),
        ("trailing escape\x1b", "trailing escape"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
    ],
)
def test_only_colours_are_left(text: str, expected: str) -> None:
    assert safe(text, colours=True) == expected


def test_without_colours_no_sequence_is_left() -> None:
    assert safe("\x1b[31mred\x1b[0m and \x1b[1mbold") == "red and bold"


@given(st.text(alphabet=st.sampled_from("\x1b[]\x07\\;mHJ0123458 a\x9b\x9d\x9cP_^\r"), max_size=60))
def test_nothing_steers_the_terminal(text: str) -> None:
    assert "\x1b" not in safe(text)
    coloured = safe(text, colours=True)
    assert all(part.split("m", 1)[0].replace(";", "").removeprefix("[").isdigit() for part in coloured.split("\x1b")[1:])
