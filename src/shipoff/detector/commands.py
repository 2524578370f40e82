"""From a command as a user writes it to an argument list."""

from __future__ import annotations

import re
import shlex

from shipoff.detector.domain import Argv, Candidate

# The two forms the runtime fills in.
_PORT = re.compile(r"\$PORT\b|\$\{PORT\}")
# What only a shell can make sense of; a quoted one goes to the shell too, which reads it the same way.
_SHELL_SYNTAX = re.compile(r"[|&;<>()$`\\*?\[\]~{}!#\n\r\0]|^\s*\w+=")
_BUILTINS = frozenset(
    {"exec", "cd", "export", "source", ".", "set", "unset", "ulimit", "umask", "eval", "trap", "if", "for", "while"}
)
_PYTHON = frozenset({"python", "python3"})
_PIP = frozenset({"pip", "pip3"})
# Programs that start as modules too.
_MODULES = {name: name for name in ("gunicorn", "uvicorn", "hypercorn", "flask", "celery", "fastapi", "streamlit", "pip")} | {
    "django-admin": "django",
    "waitress-serve": "waitress",
}


def is_simple(command: str) -> bool:
    """Whether the command needs no shell: words, quotes and the port only."""
    words = command.split()
    return bool(words) and words[0] not in _BUILTINS and not _SHELL_SYNTAX.search(_PORT.sub("", command))


def argv(command: str, candidate: Candidate | None = None) -> Argv | None:
    """The argument list of a user's command, with programs of the app's own environment found there.

    A command with shell syntax becomes ("/bin/sh", "-c", command). None: it is empty, or a quote is not closed.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    if not words or "\0" in command:
        return None
    folder = candidate.programs_folder if candidate else ""
    # Several folders (a workspace's own and its root's): only a shell looks in both.
    if not is_simple(command) or ":" in folder:
        places = "".join(f"$PWD/{place}:" for place in folder.split(":"))
        found = f'PATH="{places}$PATH"; export PATH; {command}' if folder else command
        return ("/bin/sh", "-c", found)
    if candidate and folder:
        return _found(words, candidate)
    return tuple(words)


def _found(words: list[str], candidate: Candidate) -> Argv:
    """The words with the app's own program in the place of the first one."""
    word, *rest = words
    python = f"{candidate.programs_folder}/python"
    if candidate.provider == "python":
        if word in _PYTHON:
            return (python, *rest)
        if word in _PIP and rest[:1] == ["install"]:
            # What uv installs still starts when the app's folder has moved; what pip installs does not.
            return ("uv", "pip", "install", "--python", python, *rest[1:])
        if word in _MODULES:
            return (python, "-m", _MODULES[word], *rest)
    return (f"{candidate.programs_folder}/{word}" if word in candidate.programs else word, *rest)
