"""What is committed: the same bytes each time, nothing of a newer deployment's touched, nothing of a person's removed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from golden.gitops_case import GOLDEN, rendered
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shipoff.runtime.manifests.canonical import canonical
from shipoff.runtime.manifests.folder import (
    Files,
    Mark,
    Sheet,
    owner_of,
    read,
    read_all,
    replaced,
    tidied,
    with_sheets,
    without,
)

OLD, MINE, NEW = "d1", "d2", "d3"


def test_a_project_s_folder_is_its_golden_file_byte_by_byte() -> None:
    assert rendered() == GOLDEN.read_text()


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc/.-_09:# ", min_size=1), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None)
@given(_VALUES)
@example("a\nb: c\n")
@example("\x85  ")
def test_whatever_is_in_a_manifest_is_read_back(value: Any) -> None:
    assert yaml.safe_load(canonical({"value": value})) == {"value": value}


@pytest.mark.parametrize(
    "text", ["12e4567890", "0o17", "y", "No", "1_000", "12:30:45", "~", "null", "0x1F", ".inf", "-", "=", "{a}"]
)
def test_a_string_that_some_parser_takes_for_something_else_is_quoted(text: str) -> None:
    assert canonical({"value": text}) == f"value: '{text}'\n".encode()


def page(kind: str, name: str, owner: str = "", print_: str = "f", uses: tuple[str, ...] = ()) -> bytes:
    sources = [{"configMapRef": {"name": one}} for one in uses]
    document: dict[str, Any] = {
        "kind": kind,
        "metadata": {"name": name, "annotations": {"shipoff.dev/applied": print_}, "labels": {"shipoff.dev/deployment": owner}},
        "spec": {"template": {"spec": {"containers": [{"envFrom": sources}]}}},
    }
    return canonical(document)


def sheet(path: str, content: bytes) -> Sheet:
    return Sheet(Mark(path, read(content).fingerprint), lambda: content)


def paths(files: Files) -> set[str]:
    return set(files)


SERVING: Mapping[str, bytes] = {
    "_project/namespace-x.yaml": page("Namespace", "x"),
    "production/deployment-old.yaml": page("Deployment", "old", OLD, uses=("c1",)),
    "production/configmap-c1.yaml": page("ConfigMap", "c1"),
    "production/service-production.yaml": page("Service", "production", OLD),
    "production/README.md": b"What a person wrote: [",
    "production/configmap-own.yaml": canonical({"kind": "ConfigMap", "metadata": {"name": "own"}}),
}


def test_a_newer_deployment_s_file_is_not_written_over() -> None:
    files = {"production/service-production.yaml": page("Service", "production", NEW)}
    mine = sheet("production/service-production.yaml", page("Service", "production", MINE, "g"))
    assert with_sheets(files, [mine], MINE) == files


def test_what_says_the_same_is_not_made_again() -> None:
    files = {"production/sealedsecret-s.yaml": page("SealedSecret", "s")}
    again = Sheet(Mark("production/sealedsecret-s.yaml", "f"), lambda: pytest.fail("it was sealed again"))
    assert with_sheets(files, [again], MINE) == files


def test_a_secret_for_another_key_is_sealed_again() -> None:
    files = {"production/sealedsecret-s.yaml": page("SealedSecret", "s")}
    again = Sheet(Mark("production/sealedsecret-s.yaml", "f", "k2"), lambda: b"again")
    assert with_sheets(files, [again], MINE) == {"production/sealedsecret-s.yaml": b"again"}


def test_a_release_goes_with_the_configuration_that_only_it_needed() -> None:
    both = {
        **SERVING,
        "production/deployment-new.yaml": page("Deployment", "new", NEW, uses=("c2",)),
        "production/configmap-c2.yaml": page("ConfigMap", "c2"),
    }
    left = tidied(without(both, OLD, {"Deployment"}))
    assert paths(both) - paths(left) == {"production/deployment-old.yaml", "production/configmap-c1.yaml"}


def test_with_the_last_release_everything_goes_but_what_a_person_put_there() -> None:
    left = tidied(without(SERVING, OLD, {"Deployment", "Service"}))
    assert paths(left) == {"production/README.md", "production/configmap-own.yaml"}


def test_an_environment_s_folder_is_replaced_as_a_whole() -> None:
    mine = sheet("production/deployment-new.yaml", page("Deployment", "new", MINE))
    left = replaced(SERVING, [mine], environment="production", deployment_id=MINE)
    assert paths(left) == {
        "_project/namespace-x.yaml", "production/deployment-new.yaml", "production/README.md", "production/configmap-own.yaml",
    }  # fmt: skip
    assert owner_of(read_all(left), "production") == MINE


def test_an_older_deployment_does_not_replace_a_newer_one_s_folder() -> None:
    mine = sheet("production/deployment-new.yaml", page("Deployment", "new", "d0"))
    assert replaced(SERVING, [mine], environment="production", deployment_id="d0") == SERVING
    # But another environment's is another folder.
    assert "staging/x.yaml" in replaced(SERVING, [sheet("staging/x.yaml", b"")], environment="staging", deployment_id="d0")


@pytest.mark.parametrize("content", [b"", b"- a", b"a: [", b"metadata: 1", b"\xff"])
def test_a_file_that_is_no_manifest_says_nothing(content: bytes) -> None:
    assert not read(content).ours
