"""Which of a folder's files are left out of an upload.

`.gitignore` at every level as git reads them (gitignore(5)), `.shipoffignore` beside each with the same syntax and the last
word, and what no upload ever needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from shipoff.cli.errors import UsageFailure

IGNORE_FILES = (".gitignore", ".shipoffignore")
ALWAYS = frozenset({".git", "node_modules", ".venv", "__pycache__"})


@dataclass(frozen=True)
class Rules:
    """The rules that hold in one folder: its own and those of the folders above."""

    # Outermost first; each with the path of its folder, "" for the root and else with a slash at its end.
    levels: tuple[tuple[str, GitIgnoreSpec], ...] = ()

    def entering(self, folder: Path, prefix: str) -> Rules:
        """The rules inside `folder`, whose path below the root is `prefix`. Raises UsageFailure for a wrong pattern."""
        lines: list[str] = []
        for name in IGNORE_FILES:
            file = folder / name
            if file.is_file() and not file.is_symlink():
                lines += file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        if not lines:
            return self
        try:
            spec = GitIgnoreSpec.from_lines(lines)
        except ValueError as error:
            raise UsageFailure(f"an ignore file in {folder} has a wrong pattern: {error}") from error
        return Rules((*self.levels, (prefix, spec)))

    def leaves_out(self, path: str, *, is_folder: bool) -> bool:
        """Whether the file or folder at this path below the root stays behind; the deepest rule that matches decides."""
        if path.rpartition("/")[2] in ALWAYS:
            return True
        for prefix, spec in reversed(self.levels):
            verdict = spec.check_file(path[len(prefix) :] + ("/" if is_folder else "")).include
            if verdict is not None:
                return verdict
        return False
