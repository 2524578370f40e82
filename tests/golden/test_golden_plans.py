"""Every example app has a plan that changes only on purpose: `python tests/golden/update.py`."""

from __future__ import annotations

import pytest
from golden.snapshots import EXAMPLES, PLANS, examples, snapshot_of

from shipoff.detector.domain import Plan, Settings, plan_json
from shipoff.detector.handlers import detect


@pytest.mark.parametrize("name", examples())
def test_example_gets_its_golden_plan(name: str) -> None:
    plan = detect(snapshot_of(EXAMPLES / name), Settings())
    assert isinstance(plan, Plan), plan
    assert plan_json(plan) == (PLANS / f"{name}.json").read_text()


def test_there_is_one_golden_plan_an_example() -> None:
    assert sorted(path.stem for path in PLANS.glob("*.json")) == examples()
