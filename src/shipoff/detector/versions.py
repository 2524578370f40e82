"""Which version of a language a source asks for, and where it says so.

`.tool-versions` as asdf has it (https://asdf-vm.com/manage/configuration.html), `mise.toml` as mise does
(https://mise.jdx.dev/configuration.html). A file in the app's folder comes before one in the source's root.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from shipoff.detector.domain import RuntimeVersion, Snapshot
from shipoff.detector.manifests import first_line, table_at, text, toml_table

# Language → its own version file, and its names in the tools' files.
_FILES: dict[str, tuple[str, ...]] = {
    "node": (".nvmrc", ".node-version"),
    "python": (".python-version", "runtime.txt"),
    "ruby": (".ruby-version",),
    "go": (".go-version",),
    "java": (".java-version",),
    "php": (".php-version",),
    "deno": (".dvmrc", ".deno-version"),
    "bun": (".bun-version",),
}
_NAMES: dict[str, tuple[str, ...]] = {
    "node": ("nodejs", "node"),
    "go": ("golang", "go"),
    "dotnet": ("dotnet", "dotnet-core"),
}
_MISE = ("mise.toml", ".mise.toml", ".config/mise.toml")
_MAX = 64


def version(snapshot: Snapshot, language: str, form: re.Pattern[str] | None = None) -> RuntimeVersion | None:
    """The first that asks: the language's own file, then `.tool-versions`, then mise.toml; the app's before the root's.

    With a `form`, what is written otherwise is passed over.
    """
    places = [snapshot] if snapshot.source is snapshot else [snapshot, snapshot.source]
    for place in places:
        for file, written in _asked(place, language):
            if written and (not form or form.fullmatch(written)):
                return RuntimeVersion(language, written[:_MAX], file)
    return None


def _asked(snapshot: Snapshot, language: str) -> Iterator[tuple[str, str]]:
    names = _NAMES.get(language, (language,))
    for file in _FILES.get(language, ()):
        yield (
            file,
            first_line(snapshot, file) if language in ("python", "node") else _plain(first_line(snapshot, file), language),
        )
    yield ".tool-versions", _tool_versions(text(snapshot, ".tool-versions"), names)
    for file in _MISE:
        if not snapshot.has(file):
            continue
        tools = table_at(toml_table(snapshot, file).table, "tools")
        for name in names:
            yield f"{file}: tools.{name}", _mise(tools.get(name))


def _plain(line: str, language: str) -> str:
    """The version without the language's name: `ruby-3.4`."""
    return line.removeprefix(f"{language}-")


def _tool_versions(content: str, names: tuple[str, ...]) -> str:
    for line in content.splitlines():
        words = line.partition("#")[0].split()
        if len(words) > 1 and words[0] in names:
            return words[1]
    return ""


def _mise(value: object) -> str:
    if isinstance(value, list):
        value = value[0] if value else ""
    if isinstance(value, dict):
        value = value.get("version", "")
    return str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
