"""Reads a Dockerfile as BuildKit does, as far as the platform has to know it. Pure.

What it looks for: the images that are built on, and build arguments that would carry a secret. The format is that of
docs.docker.com/reference/dockerfile: parser directives, comments, continued lines, here-documents.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from shipoff.builder.images.quoting import Refused, is_reference

_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*")
_HEREDOC = re.compile(r"(?<!<)<<(-?)\s*(['\"]?)([A-Za-z_][A-Za-z0-9_.]*)\2")
_WITH_HEREDOC = frozenset({"RUN", "COPY", "ADD"})
_FLAG = re.compile(r"--([a-z-]+)(?:=(\S*))?\s+")
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_]\w*)(?::?-([^}]*))?\}|([A-Za-z_]\w*))")


@dataclass(frozen=True)
class Instruction:
    """One instruction: its name in capitals, its flags, what follows them, and the line it begins at."""

    name: str
    flags: tuple[tuple[str, str], ...]
    rest: str
    line: int


@dataclass(frozen=True)
class Directives:
    """What the first comments say to BuildKit."""

    syntax: str = ""
    escape: str = "\\"


def directives(text: str) -> Directives:
    """The parser directives at the file's top."""
    found: dict[str, str] = {}
    for line in text.removeprefix("\ufeff").splitlines():
        match = _DIRECTIVE.fullmatch(line.strip())
        if not match or match[1].lower() in found:
            break
        found[match[1].lower()] = match[2]
    escape = found.get("escape", "\\")
    return Directives(found.get("syntax", ""), escape if escape in ("\\", "`") else "\\")


def instructions(text: str) -> list[Instruction]:
    """Every instruction, continued lines joined, the bodies of here-documents left out."""
    continued = re.compile(re.escape(directives(text).escape) + r"[ \t]*$")
    lines = enumerate(text.removeprefix("\ufeff").splitlines(), 1)
    found = []
    for number, line in lines:
        if _says_nothing(line):
            continue
        whole = line.strip()
        while continued.search(whole):
            whole = continued.sub("", whole)
            following = next(((n, more) for n, more in lines if not _says_nothing(more)), None)
            if following is None:
                break
            whole += following[1].strip()
        instruction = _instruction(whole, number)
        found.append(instruction)
        if instruction.name in _WITH_HEREDOC and not instruction.rest.startswith("["):
            _pass_heredocs(instruction.rest, lines)
    return found


def _says_nothing(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _instruction(whole: str, number: int) -> Instruction:
    name, _, rest = whole.partition(" ") if " " in whole else whole.partition("\t")
    rest = rest.lstrip()
    flags = []
    while match := _FLAG.match(rest):
        flags.append((match[1], match[2] or ""))
        rest = rest[match.end() :]
    return Instruction(name.upper(), tuple(flags), rest, number)


def _pass_heredocs(rest: str, lines: Iterator[tuple[int, str]]) -> None:
    for match in _HEREDOC.finditer(rest):
        for _, line in lines:
            if (line.lstrip("\t") if match[1] else line) == match[3]:
                break


def refuse_secrets(found: Sequence[Instruction], variables: Collection[str]) -> None:
    """Raises Refused where a variable of the project's is asked for as a build argument: those stay in the image's history."""
    for instruction in found:
        if instruction.name != "ARG":
            continue
        for word in _words(instruction.rest):
            name, given, _ = word.partition("=")
            if name in variables and not given:
                raise Refused(
                    f"line {instruction.line} of the Dockerfile asks for the variable {name} as a build argument, which would "
                    f"stay in the image's history. Take it where it is needed: RUN --mount=type=secret,id={name},env={name} …"
                )


def images(found: Sequence[Instruction]) -> list[str]:
    """The images that the file is built on or copies from, as it writes them, arguments filled in by their defaults."""
    defaults: dict[str, str] = {}
    stages: set[str] = set()
    seen: dict[str, None] = {}
    for instruction in found:
        if instruction.name == "ARG" and not stages:
            defaults |= {name: value for name, given, value in map(_assignment, _words(instruction.rest)) if given}
        elif instruction.name == "FROM":
            words = instruction.rest.split()
            _note(seen, stages, _filled(words[0], defaults) if words else "")
            stages.add(words[2].lower() if len(words) == 3 and words[1].lower() == "as" else "")
        else:
            for source in _sources(instruction):
                _note(seen, stages, source)
    return list(seen)


def _note(seen: dict[str, None], stages: Collection[str], image: str) -> None:
    known = image.lower() in stages or image.isdigit() or image in ("scratch", "context")
    # What is none BuildKit refuses by itself. As an argument, "a=/b" would name a folder of this machine.
    if not known and is_reference(image):
        seen.setdefault(image)


def _sources(instruction: Instruction) -> Iterator[str]:
    for flag, value in instruction.flags:
        if flag == "from":
            yield value
        elif flag == "mount":
            yield from (part.partition("=")[2] for part in value.split(",") if part.startswith("from="))


def _assignment(word: str) -> tuple[str, str, str]:
    name, given, value = word.partition("=")
    return name, given, value


def _filled(image: str, defaults: Mapping[str, str]) -> str:
    """Arguments replaced by their defaults; one that is unknown stays as it is."""
    return _VARIABLE.sub(lambda found: defaults.get(found[1] or found[3], found[2] or found[0]), image)


def _words(rest: str) -> list[str]:
    try:
        return shlex.split(rest)
    except ValueError:
        return rest.split()
