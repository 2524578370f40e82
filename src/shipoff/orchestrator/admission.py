"""Who gets a slot of the machine, how large it is, and when the others' turn comes. Pure; called by handlers and server.

Teams take turns by weighted fair queueing: a team's `passed` grows by 1/weight with every build that is let in, the team
with the lowest is next, and one that was idle starts at the clock, so that it can save nothing up (start-time fair queueing,
Goyal, Vin, Cheng 1996).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median

from shipoff.orchestrator.domain import Deployment, Reserved, Resources, State
from shipoff.orchestrator.records import Record

_HEADROOM = 1.25
_LEAST_REMAINING_S = 1.0
_NOTHING = Resources(0, 0)


@dataclass(frozen=True)
class Terms:
    """What the operator decided. `first_build` is reserved until a build of the project has been measured."""

    first_build: Resources
    least_build: Resources
    most_build: Resources
    # What an instance of an app reserves whose project says nothing.
    instance: Resources
    # Apps run on a cluster, and reserve what is there.
    on_cluster: bool = False
    weights: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """What the project's last builds used at their peak; both zero when none was measured."""

    peak: Resources = _NOTHING
    median_s: float = 0.0


@dataclass(frozen=True)
class QueueEntry:
    """A deployment that waits for a slot or holds one for its build."""

    deployment: Deployment
    # Reserved for what follows its build: its instances.
    app: Resources = _NOTHING
    measured: Measured = Measured()
    # Another build of its environment holds a slot.
    environment_busy: bool = False
    # What it holds now, and for how long it has built.
    held: Resources = _NOTHING
    elapsed_s: float = 0.0
    needs: Resources = _NOTHING


@dataclass(frozen=True)
class Turns:
    """How far each team has come, and the clock: where the team was that was let in last."""

    passed: Mapping[str, float] = field(default_factory=dict)
    clock: float = 0.0

    def of(self, team_id: str) -> float:
        """Where a team stands."""
        return max(self.passed.get(team_id, 0.0), self.clock)

    def taken(self, team_id: str, weight: int) -> Turns:
        """After a build of the team was let in."""
        now = self.of(team_id)
        return Turns({**self.passed, team_id: now + 1 / weight}, now)


@dataclass(frozen=True)
class Queue:
    """Everything that waits and builds, oldest first, and what there is to give, at one time of the database's clock."""

    records: Mapping[str, Record]
    entries: Sequence[QueueEntry]
    reserved: Reserved
    turns: Turns
    now: datetime


def instances_need(each: Resources, count: int) -> Resources:
    """What so many instances reserve."""
    return Resources(each.cpu_millis * count, each.memory_bytes * count)


def build_needs(measured: Measured, terms: Terms, ceiling: Resources) -> Resources:
    """What a build reserves: a quarter more than the highest of the last peaks, the default when there is none.

    What running apps leave (`ceiling`) bounds it, down to what is known to be needed: apps may never end.
    """
    known = measured.peak.memory_bytes > 0
    wanted = measured.peak.times(_HEADROOM).maximum(terms.least_build) if known else terms.first_build
    least = measured.peak.maximum(terms.least_build) if known else terms.least_build
    return wanted.clamped(terms.most_build.clamped(ceiling.maximum(least)))


def retry_needs(deployment: Deployment, terms: Terms, ceiling: Resources) -> Resources | None:
    """Twice the memory that was not enough, as far as there is so much; None when there is no more."""
    had = deployment.slot
    memory = min(had.memory_bytes * 2, terms.most_build.memory_bytes, ceiling.memory_bytes)
    return Resources(had.cpu_millis, memory) if memory > had.memory_bytes else None


def sized(entry: QueueEntry, terms: Terms, ceiling: Resources) -> QueueEntry:
    """The entry with what it needs: the larger of its build and its app, so that it is never stuck between the two."""
    if entry.deployment.artifact:
        return _with_needs(entry, entry.app)
    if entry.deployment.awaits_slot:
        build = retry_needs(entry.deployment, terms, ceiling) or entry.deployment.slot
    else:
        build = build_needs(entry.measured, terms, ceiling)
    return _with_needs(entry, build.maximum(entry.app))


def _with_needs(entry: QueueEntry, needs: Resources) -> QueueEntry:
    return QueueEntry(
        entry.deployment, entry.app, entry.measured, entry.environment_busy, entry.held, entry.elapsed_s, needs=needs
    )


def refusal(entry: QueueEntry, terms: Terms, *, budget: Resources, ceiling: Resources) -> str:
    """Why waiting is in vain, with the remedy; empty when it is not."""
    deployment = entry.deployment
    if deployment.awaits_slot and retry_needs(deployment, terms, ceiling) is None:
        return (
            f"{deployment.out_of_memory}, and no build may have more than that now: have the step use less memory, stop or "
            "scale down apps, or give builds a larger budget"
        )
    if entry.app.within(budget) or (terms.on_cluster and not any(budget.of_cluster.amounts)):
        # Of a cluster that nobody has been able to ask yet nothing is known.
        return ""
    place, need, have = "machine", entry.app, Resources(budget.cpu_millis, budget.memory_bytes)
    if terms.on_cluster:
        place, need, have = "cluster", entry.app.of_cluster, budget.of_cluster
    return (
        f"its instances need {need}, the {place} has {have} to give: lower run.replicas, run.memory_bytes or "
        "run.cpu_millis, then deploy again"
    )


def _age(entry: QueueEntry) -> tuple[datetime, str]:
    return entry.deployment.accepted_at, entry.deployment.id


def starting_order(waiting: Iterable[QueueEntry], turns: Turns, weights: Mapping[str, int]) -> list[QueueEntry]:
    """Who comes first: what needs no build, then the team whose turn it is, then the oldest."""
    by_age = sorted(waiting, key=_age)
    order = [entry for entry in by_age if entry.deployment.artifact]
    queues: dict[str, list[QueueEntry]] = {}
    for entry in by_age:
        if not entry.deployment.artifact:
            queues.setdefault(entry.deployment.team_id, []).append(entry)
    while queues:
        team_id = min(queues, key=lambda team: (turns.of(team), _age(queues[team][0])))
        order.append(queues[team_id].pop(0))
        turns = turns.taken(team_id, weights.get(team_id, 1))
        if not queues[team_id]:
            del queues[team_id]
    return order


def admissible(ordered: Iterable[QueueEntry], free: Resources, ceiling: Resources) -> list[QueueEntry]:
    """Which of the waiting start now. One that builds will make room for holds back those behind it, so that nobody starves.

    One that only apps could make room for (beyond `ceiling`) holds back nobody: they may serve for ever.
    """
    started: list[QueueEntry] = []
    environments: set[tuple[str, str]] = set()
    for entry in ordered:
        place = (entry.deployment.project_id, entry.deployment.environment)
        if entry.environment_busy or place in environments or not entry.needs.within(ceiling):
            continue
        if not entry.needs.within(free):
            break
        free = free.minus(entry.needs)
        environments.add(place)
        started.append(entry)
    return started


@dataclass(frozen=True)
class Forecast:
    """When an entry is expected to start, and what it waits for."""

    # None: nobody can say.
    starts_in_s: float | None
    lacking: Resources = _NOTHING
    # Whose ends make room for it, the last one last.
    holders: tuple[QueueEntry, ...] = ()
    behind: QueueEntry | None = None


def forecast(
    ordered: Sequence[QueueEntry], building: Iterable[QueueEntry], free: Resources, *, ceiling: Resources, usual_s: float
) -> list[Forecast]:
    """Plays the queue forward: every build takes the median of its project's, or `usual_s`; apps stay where they are."""
    ends = sorted(((_remaining_s(entry, usual_s), entry) for entry in building), key=lambda end: end[0])
    now_s, answers, previous = 0.0, [], None
    for entry in ordered:
        if not entry.needs.within(ceiling):
            answers.append(Forecast(None, entry.needs.minus(free)))
            continue
        lacking, holders = entry.needs.minus(free), []
        place = (entry.deployment.project_id, entry.deployment.environment)
        while ends and (not entry.needs.within(free) or any(_place(one) == place for _, one in ends)):
            now_s, ended = max(now_s, ends[0][0]), ends.pop(0)[1]
            free = free.plus(ended.held.minus(ended.app.clamped(ended.held)))
            holders.append(ended)
        known = entry.needs.within(free) or (not ends and _shrinks(entry) and entry.app.within(free))
        answers.append(Forecast(now_s if known else None, lacking, tuple(holders), previous))
        free = free.minus(entry.needs.clamped(free))
        if not entry.deployment.artifact:
            ends = sorted([*ends, (now_s + _usual_s(entry, usual_s), _holding(entry))], key=lambda end: end[0])
        previous = entry
    return answers


def _shrinks(entry: QueueEntry) -> bool:
    """Nothing is known of what its build needs: it takes what apps leave."""
    return not (entry.deployment.artifact or entry.deployment.awaits_slot or entry.measured.peak.memory_bytes)


def _place(entry: QueueEntry) -> tuple[str, str]:
    return entry.deployment.project_id, entry.deployment.environment


def _holding(entry: QueueEntry) -> QueueEntry:
    return QueueEntry(entry.deployment, entry.app, entry.measured, held=entry.needs)


def _usual_s(entry: QueueEntry, usual_s: float) -> float:
    return entry.measured.median_s or usual_s


def _remaining_s(entry: QueueEntry, usual_s: float) -> float:
    return max(_usual_s(entry, usual_s) - entry.elapsed_s, _LEAST_REMAINING_S)


def usual_duration(entries: Iterable[QueueEntry], otherwise_s: float) -> float:
    """The median of what is known of the queue's own projects, for those that nothing is known of."""
    known = [entry.measured.median_s for entry in entries if entry.measured.median_s]
    return float(median(known)) if known else otherwise_s


def waits_for(entry: QueueEntry, outlook: Forecast, teams: frozenset[str] | None) -> str:
    """In words, naming only what belongs to these teams (None: all)."""
    when = "" if outlook.starts_in_s is None else f", about {outlook.starts_in_s:.0f} s"
    if outlook.behind is None and outlook.holders:
        if entry.environment_busy:
            return f"the running build of its environment {entry.deployment.environment}{when}"
        others = len(outlook.holders) - 1
        more = f" and {others} more" if others else ""
        return f"{outlook.lacking.shown(only_positive=True)} held by {_name(outlook.holders[-1], teams)}{more}{when}"
    if outlook.starts_in_s is None:
        return f"{outlook.lacking.shown(only_positive=True)} held by running apps: scale down or remove one"
    if outlook.behind is not None:
        return f"its turn, behind {_name(outlook.behind, teams)}{when}"
    return "its turn"


def _name(entry: QueueEntry, teams: frozenset[str] | None) -> str:
    deployment = entry.deployment
    if teams is not None and deployment.team_id not in teams:
        return "another team"
    return f"{deployment.project_name or deployment.project_id}/{deployment.environment}"


def is_waiting(entry: QueueEntry) -> bool:
    """It has no slot yet."""
    return entry.deployment.state is State.QUEUED or entry.deployment.awaits_slot
