"""Poetry's own dependency table as PEP 508 requirements, for projects without a lock file.

Constraints as https://python-poetry.org/docs/dependency-specification/ has them.
"""

from __future__ import annotations

import re

from shipoff.detector import manifests
from shipoff.detector.manifests import Table

_VERSION = re.compile(r"(\^|~)?\s*(\d+(?:\.\d+)*)")


def poetry_requirements(project: Table) -> tuple[list[str], list[str]]:
    """The requirements of `tool.poetry.dependencies`, and the names that have none (paths, git, several constraints)."""
    requirements, left_out = [], []
    for name, specification in manifests.table_at(project, "tool", "poetry", "dependencies").items():
        if name == "python":
            continue
        line = _requirement(name, specification)
        if line is None:
            left_out.append(name)
        elif line:
            requirements.append(line)
    return sorted(requirements), sorted(left_out)


def _requirement(name: str, specification: object) -> str | None:
    """One requirement; empty: optional, and so not installed; None: it cannot be said in PEP 508."""
    if isinstance(specification, str):
        return _checked(name + pep440(specification))
    if not isinstance(specification, dict) or "version" not in specification:
        return None
    if specification.get("optional") is True:
        return ""
    extras = ",".join(extra for extra in manifests.list_at(specification, "extras") if isinstance(extra, str))
    markers = manifests.text_at(specification, "markers")
    version = pep440(manifests.text_at(specification, "version"))
    return _checked(f"{name}{f'[{extras}]' if extras else ''}{version}{f'; {markers}' if markers else ''}")


def _checked(line: str) -> str | None:
    return line if manifests.requirement(line) else None


def pep440(constraint: str) -> str:
    """A constraint in Poetry's words as a PEP 440 specifier set; what is neither comes back as it is."""
    return ",".join(filter(None, (_one(part.strip()) for part in constraint.split(","))))


def _one(constraint: str) -> str:
    if constraint in ("", "*"):
        return ""
    match = _VERSION.fullmatch(constraint)
    if not match:
        return f"=={constraint}" if re.fullmatch(r"[\d.]+\.\*", constraint) else constraint
    operator, version = match.groups()
    if not operator:
        return f"=={version}"
    numbers = [int(part[:9]) for part in version.split(".")]
    if operator == "^":
        # The leftmost number that is not zero may not change.
        place = next((index for index, number in enumerate(numbers) if number), len(numbers) - 1)
    else:
        place = min(1, len(numbers) - 1)
    ceiling = [*numbers[:place], numbers[place] + 1]
    return f">={version},<{'.'.join(map(str, ceiling))}"
