"""Manifests as text: the same object is the same bytes each time, and reads the same in every YAML parser."""

from __future__ import annotations

import re
from typing import Any

import yaml

# Strings that some parser takes for something else than a string (YAML 1.1 in Go and in Python differ; `12e4` is a number in
# one).
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9 ._/@=+-]*")
_NOT_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_ONE_LINE = re.compile(r"[\x20-\x7e]*")


class _Dumper(yaml.SafeDumper):
    """Quotes every string that is not plainly a word, and repeats what is referred to twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _string(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if _WORD.fullmatch(text) and text.lower() not in _NOT_WORDS else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style if _ONE_LINE.fullmatch(text) else '"')


_Dumper.add_representer(str, _string)


def canonical(document: dict[str, Any]) -> bytes:
    """The document as YAML in UTF-8: keys sorted, no line folded, no alias, every doubtful string quoted."""
    text = yaml.dump(document, Dumper=_Dumper, sort_keys=True, width=1 << 20, allow_unicode=True)
    return str(text).encode()
