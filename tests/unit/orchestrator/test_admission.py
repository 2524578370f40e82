"""Who gets a build slot."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from shipoff.orchestrator.domain import Deployment, QueueEntry, Resources, State, admissible, fence, starting_order

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
SLOT = Resources(1000, 1 << 30)


def entry(
    name: str,
    team: str = "a",
    *,
    environment: str = "production",
    needs: Resources = SLOT,
    running: int = 0,
    busy: bool = False,
):
    deployment = Deployment(
        id=name, number=1, project_id=name[0], team_id=team, environment=environment, state=State.QUEUED, accepted_at=WHEN
    )
    return QueueEntry(deployment, needs, team_running=running, environment_busy=busy)


def names(entries: list[QueueEntry]) -> list[str]:
    return [one.deployment.id for one in entries]


def test_teams_take_turns():
    waiting = [entry("a1", "a"), entry("b2", "a"), entry("c3", "a"), entry("d4", "b")]
    assert names(starting_order(waiting)) == ["a1", "d4", "b2", "c3"]


def test_a_team_that_builds_already_comes_after_one_that_does_not():
    assert names(starting_order([entry("a1", "a", running=1), entry("b2", "b")])) == ["b2", "a1"]


def test_only_as_many_start_as_fit():
    assert names(admissible([entry("a1"), entry("b2"), entry("c3")], Resources(2000, 8 << 30))) == ["a1", "b2"]


def test_a_large_one_is_not_starved_by_small_ones_behind_it():
    large = entry("a1", needs=Resources(2000, 1 << 30))
    assert admissible([large, entry("b2")], Resources(1000, 8 << 30)) == []


def test_one_build_an_environment_at_a_time():
    waiting = [entry("a1", busy=True), entry("b2"), entry("b3"), entry("b4", environment="staging")]
    assert names(admissible(waiting, Resources(9000, 64 << 30))) == ["b2", "b4"]


@given(
    st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 1 << 33)), max_size=20),
    st.integers(0, 8000),
    st.integers(0, 1 << 34),
)
def test_never_more_is_granted_than_there_is(needs, cpu, memory):
    waiting = [entry(f"{chr(97 + i)}{i}", needs=Resources(*need)) for i, need in enumerate(needs)]
    granted = admissible(waiting, Resources(cpu, memory))
    assert sum(one.needs.cpu_millis for one in granted) <= cpu
    assert sum(one.needs.memory_bytes for one in granted) <= memory


def test_a_later_deployment_beats_every_switch_of_an_earlier_one_and_the_way_back_beats_both():
    assert fence(2, 0, 1) > fence(1, 0, 1_000_000)
    assert fence(1, 2, 8) > fence(2, 0, 7)
