"""What a workload is on Kubernetes changes only on purpose: `python tests/golden/manifest_cases.py`."""

from __future__ import annotations

import kubernetes_validate
import pytest
from golden.manifest_cases import CASES, MANIFESTS, objects, rendered

_OLDEST, _NEWEST = "1.30.0", "1.37.0"


@pytest.mark.parametrize("name", CASES)
def test_a_workload_has_its_golden_manifests(name: str) -> None:
    assert rendered(name) == (MANIFESTS / f"{name}.yaml").read_text()


def test_there_is_one_golden_file_a_case() -> None:
    assert sorted(path.stem for path in MANIFESTS.glob("*.yaml")) == sorted(CASES)


@pytest.mark.parametrize(("name", "version"), [*((name, _OLDEST) for name in CASES), ("web-and-worker-with-tls", _NEWEST)])
def test_manifests_are_valid_to_the_letter(name: str, version: str) -> None:
    for one in objects(name):
        kubernetes_validate.validate(one.to_dict(), version, strict=True)


def test_an_unknown_field_would_be_refused() -> None:
    document = objects("web")[-1].to_dict()
    document["spec"]["ingresClassName"] = "x"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, _OLDEST, strict=True)
