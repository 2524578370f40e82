"""What a build is on Kubernetes changes only on purpose: `python tests/golden/job_cases.py`."""

from __future__ import annotations

import kubernetes_validate
import pytest
from golden.job_cases import CASES, JOBS, objects, rendered

_OLDEST, _NEWEST = "1.30.0", "1.37.0"


@pytest.mark.parametrize("name", CASES)
def test_a_build_has_its_golden_manifests(name: str) -> None:
    assert rendered(name) == (JOBS / f"{name}.yaml").read_text()


def test_there_is_one_golden_file_a_case() -> None:
    assert sorted(path.stem for path in JOBS.glob("*.yaml")) == sorted(CASES)


@pytest.mark.parametrize(("name", "version"), [*((name, _OLDEST) for name in CASES), ("everything-chosen", _NEWEST)])
def test_manifests_are_valid_to_the_letter(name: str, version: str) -> None:
    for one in objects(name):
        kubernetes_validate.validate(one.to_dict(), version, strict=True)
