"""Dockerfiles of the example apps, made of their plans with facts that never change."""

from __future__ import annotations

from pathlib import Path

from golden.snapshots import EXAMPLES, snapshot_of

from shipoff.builder.images.dockerfile import Bases, Facts, Generated, generate
from shipoff.builder.steps import CACHES, fixed_environment
from shipoff.detector.domain import Plan, Settings
from shipoff.detector.handlers import detect
from shipoff.detector.server import plan_message

RECIPES = Path(__file__).parent / "images"
FACTS = Facts(
    bases=Bases("registry.example/build@sha256:" + "b" * 64, "registry.example/run@sha256:" + "d" * 64),
    tenant="team",
    app="app",
    variables={"API_TOKEN": "1111111111111111", "VITE_TITLE": "2222222222222222"},
    operator=["HTTPS_PROXY"],
    operator_files=["PIP_CERT"],
    environment=fixed_environment(),
    caches=CACHES,
)


def recipe_of(name: str) -> Generated | None:
    """An example's Dockerfile; None where nothing has to be built."""
    plan = detect(snapshot_of(EXAMPLES / name), Settings())
    assert isinstance(plan, Plan)
    if plan.mode.files_only and not plan.steps:
        return None
    return generate(plan_message(plan), FACTS)


def written(recipe: Generated) -> dict[str, str]:
    """File's ending → what it holds."""
    return {"Dockerfile": recipe.text, "dockerignore": recipe.ignore}
