"""Every example's Dockerfile changes only on purpose: `python tests/golden/update.py`."""

from __future__ import annotations

import pytest
from golden.recipes import RECIPES, recipe_of, written
from golden.snapshots import examples


@pytest.mark.parametrize("name", examples())
def test_example_gets_its_golden_dockerfile(name: str) -> None:
    recipe = recipe_of(name)
    expected = {path.suffix[1:]: path.read_text() for path in RECIPES.glob(f"{name}.*")}
    assert (written(recipe) if recipe else {}) == expected


def test_there_is_no_golden_dockerfile_without_an_example() -> None:
    assert {path.stem for path in RECIPES.iterdir()} <= set(examples())
