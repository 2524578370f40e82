"""The maths that figures are reported with. No timing."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`load("_measure")`: a module of benchmarks/, which is no package."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return importlib.import_module


@pytest.fixture
def measure(load) -> ModuleType:
    return load("_measure")


def rounds_of(measure: ModuleType, *pairs: tuple[float, float], moved: float = 1.0) -> list[Any]:
    return [measure.Round(ours, peer, {"commit": [1.0, moved, 1.0]}) for ours, peer in pairs]


def test_a_comparison_gives_medians_and_the_median_of_the_rounds_own_ratios(measure):
    # The medians' quotient would be 1.5.
    comparison = measure.compare(rounds_of(measure, (1, 2), (3, 1), (9, 3)))
    assert (comparison.ours, comparison.peer, comparison.ratio) == (3, 2, 3)
    assert comparison.spread == {"ours": (1, 9), "peer": (1, 3), "ratio": (0.5, 3)}
    assert comparison.added == 1
    assert (comparison.rounds, comparison.thrown_away, comparison.unsteady) == (3, 0, False)


def test_rounds_whose_control_moved_are_thrown_away_and_counted(measure):
    rounds = [*rounds_of(measure, (2, 1), (2, 1), (2, 1)), *rounds_of(measure, (50, 1), moved=1.31)]
    comparison = measure.compare(rounds)
    assert (comparison.ratio, comparison.rounds, comparison.thrown_away) == (2, 3, 1)
    assert comparison.spread["ratio"] == (2, 2)


def test_a_control_that_moved_by_thirty_percent_is_steady_still(measure):
    assert measure.compare(rounds_of(measure, (2, 1), moved=1.3)).unsteady is False


@pytest.mark.parametrize("readings", [[1.0, 1.5, 1.0], [1.5, 1.0, 1.0], [1.0, 1.0, 0.6]])
def test_movement_is_the_widest_of_any_control(measure, readings):
    moved = measure.Round(1, 1, {"commit": [1.0, 1.1, 1.0], "xadd": readings})
    assert moved.movement == pytest.approx(max(readings) / min(readings))


def test_too_few_steady_rounds_are_reported_as_unsteady_with_all_of_them(measure):
    rounds = [*rounds_of(measure, (1, 1)), *rounds_of(measure, (3, 1), (3, 1), (3, 1), moved=2)]
    comparison = measure.compare(rounds)
    assert (comparison.unsteady, comparison.rounds, comparison.thrown_away, comparison.ratio) == (True, 4, 0, 3)


def test_nothing_to_compare_is_an_error(measure):
    with pytest.raises(ValueError, match="no round"):
        measure.compare([])


@pytest.mark.parametrize(
    ("steady", "unsteady", "stops"), [(5, 0, True), (4, 5, False), (4, 6, True), (0, 9, False), (0, 10, True)]
)
def test_a_figure_ends_with_enough_steady_rounds_or_twice_as_many_tries(measure, steady, unsteady, stops):
    rounds = rounds_of(measure, *[(1, 1)] * steady) + rounds_of(measure, *[(1, 1)] * unsteady, moved=2)
    assert measure.enough(rounds, 5) is stops


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (99, 99), (100, 100), (0, 1), (1, 1), (99.5, 100)])
def test_percentiles_are_nearest_rank(measure, percent, expected):
    assert measure.percentile([float(number) for number in range(100, 0, -1)], percent) == expected


def test_the_percentile_of_one_value_is_that_value(measure):
    assert measure.percentile([7.0], 99) == 7


def test_what_was_sent_has_to_be_seen_once(measure):
    measure.check_seen(["a", "b"], ["b", "a"])


@pytest.mark.parametrize(
    ("sent", "seen", "problem"),
    [
        (["a", "b"], ["a"], "never seen"),
        (["a"], ["a", "b"], "never sent"),
        (["a", "b"], ["a", "b", "b"], "seen twice"),
        (["a", "a"], ["a"], "sent twice"),
    ],
)
def test_what_is_lost_doubled_or_strange_ends_the_figure(measure, sent, seen, problem):
    with pytest.raises(AssertionError, match=problem):
        measure.check_seen(sent, seen)


def test_a_figure_is_recorded_with_every_key(measure, monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "OUT", tmp_path / "out")
    comparison = measure.compare(rounds_of(measure, (1, 2), (1, 2), (1, 2)))
    file = measure.record("pipeline", {"throughput": comparison}, unit={"throughput": "1/s"}, control_s={"commit": 0.1})
    recorded = json.loads(file.read_text())
    assert file.name == "pipeline.json"
    assert {"ours", "peer", "ratio", "unit", "rounds", "spread", "machine", "versions", "control_s"} <= recorded.keys()
    assert recorded["ratio"] == {"throughput": 0.5}
    assert recorded["spread"]["throughput"]["ratio"] == [0.5, 0.5]
    assert recorded["machine"]["cores"] >= 1
    assert recorded["versions"]["celery"]


@pytest.mark.parametrize(
    ("ours", "script", "meets"), [(1.1, 1.0, True), (1.3, 1.0, False), (0.4, 0.1, False), (3.4, 3.0, True), (3.7, 3.0, False)]
)
def test_a_push_has_to_keep_both_limits(load, ours, script, meets):
    push = load("push_to_live")
    comparison = load("_measure").compare([load("_measure").Round(ours, script)])
    assert push.meets(comparison, 0.5) is meets


def test_latencies_are_compared_by_each_rounds_percentile(load, measure):
    pipeline = load("pipeline")
    raw = measure.Round(10, 20, {"commit": [1.0, 1.0]})
    rounds = [(pipeline.Turn(10, [0.1, 0.2, 0.3]), pipeline.Turn(20, [0.1, 0.1, 0.6]), raw)]
    (p50,), (p99,) = (pipeline.latency_rounds(rounds, percent) for percent in (50, 99))
    assert (p50.ours, p50.peer, p50.controls) == (0.2, 0.1, raw.controls)
    assert (p99.ours, p99.peer) == (0.3, 0.6)


def test_every_delivery_is_a_signed_push_of_its_own(load):
    from shipoff.project import github

    pipeline = load("pipeline")
    one, other = pipeline.delivery("secret"), pipeline.delivery("secret")
    github.verify("secret", one.body, one.signature)
    push = github.push_of(github.parse(one.body))
    assert push.repository_key == one.repository.removeprefix("https://")
    assert (one.id, one.repository) != (other.id, other.repository)
