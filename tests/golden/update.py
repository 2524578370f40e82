"""Writes the golden plans and Dockerfiles anew: `python tests/golden/update.py`. Read the difference before you commit it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from golden.recipes import RECIPES, recipe_of, written
from golden.snapshots import EXAMPLES, PLANS, examples, snapshot_of

from shipoff.detector.domain import Plan, Settings, plan_json
from shipoff.detector.handlers import detect


def main() -> None:
    """One file an example; those of examples that are gone are removed."""
    PLANS.mkdir(exist_ok=True)
    for stale in {path.stem for path in PLANS.glob("*.json")} - set(examples()):
        (PLANS / f"{stale}.json").unlink()
    for name in examples():
        plan = detect(snapshot_of(EXAMPLES / name), Settings())
        if not isinstance(plan, Plan):
            raise SystemExit(f"{name}: {plan.message}")
        (PLANS / f"{name}.json").write_text(plan_json(plan))
    _write_recipes()


def _write_recipes() -> None:
    RECIPES.mkdir(exist_ok=True)
    for stale in RECIPES.iterdir():
        stale.unlink()
    for name in examples():
        if recipe := recipe_of(name):
            for ending, text in written(recipe).items():
                (RECIPES / f"{name}.{ending}").write_text(text)


if __name__ == "__main__":
    main()
