"""Pipenv's Pipfile as PEP 508 requirements, for projects without a lock file (https://pipenv.pypa.io/en/latest/pipfile.html)."""

from __future__ import annotations

from shipoff.detector import manifests
from shipoff.detector.manifests import Table


def pipfile_requirements(pipfile: Table) -> tuple[list[str], list[str]]:
    """The requirements of `[packages]`, and the names that have none (paths, git)."""
    requirements, left_out = [], []
    for name, specification in manifests.table_at(pipfile, "packages").items():
        line = _requirement(name, specification)
        if manifests.requirement(line):
            requirements.append(line)
        else:
            left_out.append(str(name)[:80])
    return sorted(requirements), sorted(left_out)


def _requirement(name: str, specification: object) -> str:
    """One requirement; empty: it cannot be said in PEP 508."""
    if isinstance(specification, str):
        return name + ("" if specification == "*" else specification)
    if not isinstance(specification, dict) or not isinstance(specification.get("version"), str):
        return ""
    extras = ",".join(extra for extra in manifests.list_at(specification, "extras") if isinstance(extra, str))
    markers = manifests.text_at(specification, "markers")
    version = manifests.text_at(specification, "version")
    return f"{name}{f'[{extras}]' if extras else ''}{'' if version == '*' else version}{f'; {markers}' if markers else ''}"
