"""Who gets a slot, how large it is, and what the queue says of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipoff.orchestrator.admission import (
    Forecast,
    Measured,
    QueueEntry,
    Terms,
    Turns,
    admissible,
    build_needs,
    forecast,
    refusal,
    retry_needs,
    sized,
    starting_order,
    waits_for,
)
from shipoff.orchestrator.domain import Deployment, Resources, State
from shipoff.orchestrator.records import fence

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
MIB, GIB = 1 << 20, 1 << 30
SLOT = Resources(1000, GIB)
NOTHING = Resources(0, 0)
PLENTY = Resources(64000, 64 * GIB)
TERMS = Terms(
    first_build=Resources(1000, 2 * GIB),
    least_build=Resources(250, 256 * MIB),
    most_build=Resources(4000, 8 * GIB),
    instance=Resources(100, 256 * MIB),
)


def entry(name: str, team: str = "a", *, environment: str = "production", needs: Resources = SLOT, busy: bool = False, age_s=0):
    deployment = Deployment(
        id=name,
        number=1,
        project_id=name,
        team_id=team,
        environment=environment,
        state=State.QUEUED,
        accepted_at=WHEN - timedelta(seconds=age_s),
        project_name=name,
    )
    return QueueEntry(deployment, needs=needs, environment_busy=busy)


def building(name: str, *, held: Resources = SLOT, app: Resources = NOTHING, median_s=60.0, elapsed_s=20.0, team="a"):
    made = entry(name, team)
    deployment = replace(made.deployment, state=State.BUILDING)
    return replace(made, deployment=deployment, held=held, app=app, measured=Measured(SLOT, median_s), elapsed_s=elapsed_s)


def names(entries: list[QueueEntry]) -> list[str]:
    return [one.deployment.id for one in entries]


def test_teams_take_turns():
    waiting = [entry("a1", "a"), entry("b2", "a"), entry("c3", "a"), entry("d4", "b")]
    assert names(starting_order(waiting, Turns(), {})) == ["a1", "d4", "b2", "c3"]


def test_a_backlog_does_not_hold_up_a_team_that_comes_later_even_with_a_single_slot():
    """One slot, one build at a time: the turns outlive the builds."""
    turns, waiting, granted = Turns(), [entry(f"a{n}", "a", age_s=99 - n) for n in range(5)], []
    for step in range(6):
        if step == 2:
            waiting.append(entry("b0", "b"))
        first = starting_order(waiting, turns, {})[0]
        waiting.remove(first)
        turns = turns.taken(first.deployment.team_id, 1)
        granted.append(first.deployment.id)
    assert granted.index("b0") == 2


def test_a_team_of_weight_two_has_two_turns_for_one():
    waiting = [entry(f"{team}{n}", team, age_s=9 - n) for team in "ab" for n in range(4)]
    order = names(starting_order(waiting, Turns(), {"b": 2}))
    assert sorted(order[:6]) == ["a0", "a1", "b0", "b1", "b2", "b3"]


def test_what_needs_no_build_goes_first():
    made = entry("r1")
    rollback = replace(made, deployment=replace(made.deployment, artifact=b"a"))
    assert names(starting_order([entry("b1", age_s=60), rollback], Turns(), {})) == ["r1", "b1"]


def test_only_as_many_start_as_fit():
    assert names(admissible([entry("a1"), entry("b2"), entry("c3")], Resources(2000, 8 * GIB), PLENTY)) == ["a1", "b2"]


def test_a_large_one_is_not_starved_by_small_ones_behind_it():
    large = entry("a1", needs=Resources(2000, GIB))
    assert admissible([large, entry("b2")], Resources(1000, 8 * GIB), PLENTY) == []


def test_what_only_apps_could_make_room_for_holds_back_nobody():
    large = entry("a1", needs=Resources(2000, 9 * GIB))
    assert names(admissible([large, entry("b2")], Resources(2000, 2 * GIB), Resources(4000, 8 * GIB))) == ["b2"]


def test_one_build_an_environment_at_a_time():
    waiting = [entry("a1", busy=True), entry("b2"), entry("b2"), entry("b2", environment="staging")]
    assert names(admissible(waiting, PLENTY, PLENTY)) == ["b2", "b2"]


def test_a_first_build_takes_the_default_and_later_ones_what_was_used_and_a_quarter_more():
    assert build_needs(Measured(), TERMS, PLENTY) == Resources(1000, 2 * GIB)
    assert build_needs(Measured(Resources(800, 800 * MIB), 5), TERMS, PLENTY) == Resources(1000, 1000 * MIB)
    assert build_needs(Measured(Resources(10, 10 * MIB), 5), TERMS, PLENTY) == TERMS.least_build
    assert build_needs(Measured(Resources(9000, 90 * GIB), 5), TERMS, PLENTY) == TERMS.most_build


def test_builds_shrink_to_what_apps_leave_but_not_below_what_is_known_to_be_needed():
    left = Resources(1000, 700 * MIB)
    assert build_needs(Measured(), TERMS, left) == Resources(1000, 700 * MIB)
    assert build_needs(Measured(Resources(500, 900 * MIB), 5), TERMS, left).memory_bytes == 900 * MIB


def test_a_retry_doubles_up_to_what_there_is_and_is_refused_when_that_is_no_more():
    waits = replace(entry("a1").deployment, slot=SLOT, awaits_slot=True, out_of_memory="install was killed at 1 GiB")
    assert retry_needs(waits, TERMS, PLENTY) == Resources(1000, 2 * GIB)
    assert retry_needs(waits, TERMS, Resources(4000, 1536 * MIB)) == Resources(1000, 1536 * MIB)
    assert retry_needs(waits, TERMS, Resources(4000, GIB)) is None
    reason = refusal(QueueEntry(waits), TERMS, budget=SLOT, ceiling=SLOT)
    assert "install was killed at 1 GiB" in reason
    assert "larger budget" in reason


def test_an_app_larger_than_the_machine_is_refused_at_once_with_the_fields_to_change():
    huge = replace(entry("a1"), app=Resources(100, 100 * GIB))
    assert "run.memory_bytes" in refusal(huge, TERMS, budget=PLENTY, ceiling=PLENTY)
    assert refusal(entry("a1"), TERMS, budget=PLENTY, ceiling=PLENTY) == ""


def test_a_build_reserves_enough_for_the_app_it_becomes():
    one = sized(replace(entry("a1"), app=Resources(100, 5 * GIB)), TERMS, PLENTY)
    assert one.needs == Resources(1000, 5 * GIB)


RESOURCES = st.builds(Resources, st.integers(1, 4000), st.integers(1, 1 << 33))


@given(st.lists(RESOURCES, max_size=20), RESOURCES, RESOURCES)
@settings(max_examples=100, deadline=None)
def test_never_more_is_granted_than_there_is(needs, free, lasting):
    waiting = [entry(f"a{i}", needs=need) for i, need in enumerate(needs)]
    granted = admissible(waiting, free, free.plus(lasting))
    assert sum(one.needs.cpu_millis for one in granted) <= free.cpu_millis
    assert sum(one.needs.memory_bytes for one in granted) <= free.memory_bytes


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4), st.integers(0, 50)), min_size=1, max_size=25),
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 5)),
)
@settings(max_examples=100, deadline=None)
def test_nobody_starves(wanted, weights):
    """Whatever fits the machine is started after at most as many rounds as there are entries, however large it is."""
    ceiling, turns = Resources(4000, 4 * GIB), Turns()
    waiting = [entry(f"x{i}", team, needs=SLOT.times(size), age_s=age) for i, (team, size, age) in enumerate(wanted)]
    running: list[QueueEntry] = []
    rounds = 0
    while waiting:
        rounds += 1
        assert rounds <= 2 * len(wanted)
        free = ceiling
        for one in running:
            free = free.minus(one.needs)
        assert free.cpu_millis >= 0
        for one in admissible(starting_order(waiting, turns, weights), free, ceiling):
            waiting.remove(one)
            running.append(one)
            turns = turns.taken(one.deployment.team_id, weights.get(one.deployment.team_id, 1))
        # The oldest build ends before the next round.
        running = running[1:]


def test_the_start_is_estimated_from_what_builds_took():
    small = Resources(0, 0)
    first, second = forecast([entry("b1"), entry("c1")], [building("a1")], small, ceiling=PLENTY, usual_s=30)
    assert (first.starts_in_s, names(first.holders)) == (40.0, ["a1"])
    # Nothing is known of b1: the queue's usual duration.
    assert (second.starts_in_s, names(second.holders)) == (70.0, ["b1"])


def test_an_overdue_build_is_expected_to_end_any_moment():
    (only,) = forecast([entry("b1")], [building("a1", elapsed_s=500)], Resources(0, 0), ceiling=PLENTY, usual_s=30)
    assert only.starts_in_s == 1.0


def test_what_becomes_an_app_makes_room_only_for_the_difference():
    stays = building("a1", app=SLOT)
    known = replace(entry("b1"), measured=Measured(SLOT, 9))
    (only,) = forecast([known], [stays], Resources(0, 0), ceiling=PLENTY, usual_s=30)
    assert only.starts_in_s is None
    # A first build takes what is left.
    (first,) = forecast([entry("b1")], [stays], Resources(0, 0), ceiling=PLENTY, usual_s=30)
    assert first.starts_in_s == 40.0


def test_it_says_what_it_waits_for_and_for_whom():
    one = entry("b1", needs=Resources(500, 1_400_000_000))
    (outlook,) = forecast(
        [one], [building("shop", held=Resources(500, 1_400_000_000))], Resources(500, 0), ceiling=PLENTY, usual_s=9
    )
    assert waits_for(one, outlook, None) == "1.4 GB held by shop/production, about 40 s"
    assert waits_for(one, outlook, frozenset({"other"})) == "1.4 GB held by another team, about 40 s"


def test_it_says_so_when_apps_hold_everything_and_when_only_its_turn_has_to_come():
    one = entry("b1")
    (outlook,) = forecast([one], [], Resources(0, 0), ceiling=Resources(0, 0), usual_s=9)
    assert waits_for(one, outlook, None) == "1.1 GB and 1.0 cores held by running apps: scale down or remove one"
    assert waits_for(one, Forecast(12.0, behind=entry("shop")), None) == "its turn, behind shop/production, about 12 s"


def test_a_later_deployment_beats_every_switch_of_an_earlier_one_and_the_way_back_beats_both():
    assert fence(2, 0, 1) > fence(1, 0, 1_000_000)
    assert fence(1, 2, 8) > fence(2, 0, 7)


def test_an_app_on_a_cluster_reserves_there_and_its_build_here():
    terms = replace(TERMS, on_cluster=True)
    one = replace(entry("b1"), app=Resources(500, GIB).on_cluster)
    budget = Resources(4000, 8 * GIB, 1000, 2 * GIB)
    sized_one = sized(one, terms, budget)
    assert sized_one.needs == Resources(1000, 2 * GIB, 500, GIB)
    assert admissible([sized_one], budget, budget) == [sized_one]
    # Room on the one is no room on the other, and apps may serve for ever: those behind it go on.
    full = Resources(4000, 8 * GIB, 0, 0)
    other = entry("c1", needs=SLOT)
    assert admissible([sized_one, other], full, full) == [other]


def test_what_the_cluster_could_never_hold_is_refused_once_it_is_known():
    terms = replace(TERMS, on_cluster=True)
    one = replace(entry("b1"), app=Resources(500, GIB).on_cluster)
    small, unknown = Resources(4000, 8 * GIB, 400, GIB), Resources(4000, 8 * GIB)
    words = "its instances need 1.1 GB and 0.5 cores, the cluster has 1.1 GB and 0.4 cores to give"
    assert refusal(one, terms, budget=small, ceiling=small).startswith(words)
    assert refusal(one, terms, budget=unknown, ceiling=unknown) == ""


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        (Resources(500, 1_400_000_000), "1.4 GB and 0.5 cores"),
        (Resources(0, 0, 500, 1_400_000_000), "1.4 GB and 0.5 cores of the cluster"),
        (Resources(0, 1_000_000_000, 500, 0), "1.0 GB, and 0.5 cores of the cluster"),
        (Resources(-1, 0, -1, 1_000_000_000), "1.0 GB of the cluster"),
        (Resources(500, 0, -1, 0), "0.5 cores"),
    ],
)
def test_amounts_are_shown_by_where_they_are(amount, words):
    assert amount.shown(only_positive=True) == words
