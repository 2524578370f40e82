"""The decisions against a model: many deployments of several environments, and events in any order, late, or twice.

The model knows nothing of the table: it is the invariants of the architecture, written down a second time.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from shipoff.orchestrator import handlers
from shipoff.orchestrator.domain import (
    ArtifactKnown,
    BuildFailed,
    BuildSucceeded,
    Cancelled,
    DeadlinePassed,
    Deployment,
    Endpoint,
    EndpointsReady,
    Event,
    Instruction,
    ProvisionFailed,
    ReleasePublished,
    RouteSwitched,
    RouteTaken,
    SlotGranted,
    State,
)
from shipoff.orchestrator.records import NewDeployment

SLOTS = 3
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
ENVIRONMENTS = [("shop", "production"), ("shop", "staging"), ("blog", "production")]
# How many attempts or revisions late an event is; mostly none.
LATE = st.sampled_from([0, 0, 0, 1])
ON_THE_WAY = {"queued", "building", "provisioning"}
# What the architecture allows: from state → to states.
MAY_BECOME = {
    "queued": {"building", "provisioning", "failed", "inactive"},
    "building": {"provisioning", "failed", "inactive"},
    "provisioning": {"production", "failed", "inactive"},
    "production": {"inactive", "failed"},
    "failed": set(),
    "inactive": set(),
}


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Runs what never waits: the store is in memory."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waited")


@dataclass
class Memory:
    """`ports.Work` on a dict, as far as the use cases need it. Checks each change as the database would."""

    deployments: dict[str, Deployment] = field(default_factory=dict)
    served: list[str] = field(default_factory=list)
    reserved: set[str] = field(default_factory=set)
    instructed: list[tuple[str, Instruction]] = field(default_factory=list)
    all_baked: bool = False

    def place(self, project_id: str, environment: str) -> list[Deployment]:
        return [d for d in self.deployments.values() if (d.project_id, d.environment) == (project_id, environment)]

    async def insert(self, new: NewDeployment) -> Deployment | None:
        if new.id in self.deployments:
            return None
        number = 1 + sum(d.project_id == new.project_id for d in self.deployments.values())
        facts = {name: getattr(new, name) for name in ("id", "project_id", "team_id", "environment", "accepted_at", "artifact")}
        made = Deployment(number=number, state=State.QUEUED, static=new.static, automatic=new.trigger == 7, **facts)
        self.deployments[new.id] = made
        return made

    async def locked(self, deployment_id: str) -> Deployment | None:
        return self.deployments.get(deployment_id)

    async def production(self, project_id: str, environment: str) -> Deployment | None:
        return next((d for d in self.place(project_id, environment) if d.state is State.PRODUCTION), None)

    async def older_on_the_way(self, deployment: Deployment) -> Sequence[Deployment]:
        return [
            d for d in self.place(deployment.project_id, deployment.environment)
            if d.state in (State.QUEUED, State.BUILDING) and d.accepted_at < deployment.accepted_at
        ]  # fmt: skip

    async def newer_number(self, deployment: Deployment) -> int | None:
        place = self.place(deployment.project_id, deployment.environment)
        newer = [d.number for d in place if d.accepted_at > deployment.accepted_at and d.state is not State.FAILED]
        return max(newer, default=None)

    async def of_project(self, project_id: str) -> Sequence[Deployment]:
        ended = (State.FAILED, State.INACTIVE)
        return [d for d in self.deployments.values() if d.project_id == project_id and d.state not in ended]

    async def save(self, before: Deployment, after: Deployment, *, actor: str) -> None:
        assert self.deployments[after.id].version == before.version, "compare-and-set"
        assert after.state is before.state or after.state.value in MAY_BECOME[before.state.value]
        if before.state is State.BUILDING and after.state is not State.BUILDING:
            self.reserved.discard(after.id)
        if after.state is State.PRODUCTION and before.state is not State.PRODUCTION:
            self.served.append(after.id)
        self.deployments[after.id] = after

    async def instruct(self, deployment: Deployment, instruction: Instruction) -> None:
        self.instructed.append((deployment.id, instruction))

    async def baked(self, deployment: Deployment) -> bool:
        return self.all_baked

    async def newer_under_way(self, deployment: Deployment) -> bool:
        place = self.place(deployment.project_id, deployment.environment)
        return any(d.accepted_at > deployment.accepted_at and d.state.value in ON_THE_WAY for d in place)

    async def broken(self, project_id: str, environment: str) -> Deployment | None:
        serving = await self.production(project_id, environment)
        return serving if serving and serving.broke else None

    async def put_back(self, deployment: Deployment) -> tuple[int, NewDeployment] | None:
        place = self.place(deployment.project_id, deployment.environment)
        found = [d for d in place if d.state is State.INACTIVE and d.id in self.served and d.number < deployment.number]
        if not found:
            return None
        back = max(found, key=lambda d: d.number)
        new = wanted(f"{len(self.deployments)}", back.project_id, back.environment)
        accepted_at = deployment.accepted_at + timedelta(microseconds=1)
        return back.number, replace(new, accepted_at=accepted_at, trigger=7, artifact=back.artifact, static=back.static)

    async def lock_numbers(self, project_id: str) -> None:
        return None


def wanted(deployment_id: str, project_id: str, environment: str, *, accepted_at: datetime = EPOCH) -> NewDeployment:
    return NewDeployment(
        id=deployment_id, project_id=project_id, project_name=project_id, team_id="t", environment=environment, request=b"",
        branch="", commit="", commit_message="", trigger=1, requested_by="ada", accepted_at=accepted_at,
    )  # fmt: skip


class Deployments(RuleBasedStateMachine):
    """Everybody who can send an event, doing so at any time."""

    known = Bundle("known")
    requests = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.work = Memory()
        # The model: environment → deployment → (its state, when it was accepted); and what has served there last.
        self.states: dict[tuple[str, str], dict[str, str]] = {}
        self.removed: set[str] = set()
        self.clock = 0

    def apply(self, deployment_id: str, event: Event) -> None:
        run(handlers.apply_by_id(self.work, deployment_id, event))

    @rule(target=requests, place=st.sampled_from(ENVIRONMENTS), known=st.booleans(), static=st.booleans())
    def ask(self, place: tuple[str, str], known: bool, static: bool) -> NewDeployment:
        """Somebody's request leaves for the queue, where it may be overtaken."""
        self.clock += 1
        new = wanted(f"r{self.clock}", *place, accepted_at=EPOCH + timedelta(seconds=self.clock))
        return replace(new, artifact=b"a", static=static) if known else new

    @rule(target=known, new=requests)
    def accept(self, new: NewDeployment) -> str:
        """It arrives; perhaps once more."""
        if new.project_id in self.removed:
            return new.id
        run(handlers.accept(self.work, new))
        arrived = self.work.deployments[new.id]
        place = self.work.place(arrived.project_id, arrived.environment)
        for other in place:
            if other.accepted_at < arrived.accepted_at:
                assert other.state not in (State.QUEUED, State.BUILDING), "an older one is outdated by a newer one"
        return new.id

    @rule(deployment=known)
    def grant(self, deployment: str) -> None:
        """Admission: as `handlers.admit` does, one build an environment and no more than there is room for."""
        now = self.work.deployments.get(deployment)
        if now is not None and now.artifact:
            self.apply(deployment, ArtifactKnown())
            return
        if now is None or len(self.work.reserved) >= SLOTS:
            return
        if any(d.state is State.BUILDING for d in self.work.place(now.project_id, now.environment)):
            return
        if run(handlers.apply(self.work, now, SlotGranted())) is not None:
            self.work.reserved.add(deployment)

    @rule(deployment=known, late=LATE, static=st.booleans())
    def build(self, deployment: str, late: int, static: bool) -> None:
        before = self.work.deployments.get(deployment)
        attempt = before.attempt - late if before else 1
        self.apply(deployment, BuildSucceeded(attempt, b"a", b"p", static=static))
        assert not late or self.work.deployments.get(deployment) == before, "an older attempt is nobody's"

    @rule(deployment=known, late=LATE, lost=st.booleans())
    def break_build(self, deployment: str, late: int, lost: bool) -> None:
        before = self.work.deployments.get(deployment)
        attempt = before.attempt - late if before else 1
        self.apply(deployment, BuildFailed(attempt, "it broke", lost=lost))
        assert not late or self.work.deployments.get(deployment) == before, "an older attempt is nobody's"

    @rule(deployment=known, revision=st.integers(1, 4))
    def answer(self, deployment: str, revision: int) -> None:
        self.apply(deployment, EndpointsReady(revision, (Endpoint("127.0.0.1", 4000 + revision),)))

    @rule(deployment=known)
    def publish(self, deployment: str) -> None:
        self.apply(deployment, ReleasePublished())

    @rule(deployment=known, late=LATE)
    def switch(self, deployment: str, late: int) -> None:
        """The edge's answer, which is fenced by the number, as `performer` has it."""
        now = self.work.deployments.get(deployment)
        if now is None or not (now.static or now.endpoints):
            return
        serving = run(self.work.production(now.project_id, now.environment))
        taken = serving is not None and serving.number > now.number
        self.apply(deployment, RouteTaken() if taken else RouteSwitched(now.revision - late))

    @rule(target=known, new=requests)
    def start_building(self, new: NewDeployment) -> str:
        self.accept(new)
        self.grant(new.id)
        return new.id

    @rule(target=known, new=requests)
    def go_live(self, new: NewDeployment) -> str:
        """All of it in the right order, so that much is in production and far from its beginning."""
        self.accept(new)
        if new.id in self.work.deployments:
            self.grant(new.id)
            self.build(new.id, 0, new.static)
            self.publish(new.id)
            self.answer(new.id, self.work.deployments[new.id].revision + 1)
            self.switch(new.id, 0)
        return new.id

    @rule(place=st.sampled_from(ENVIRONMENTS))
    def break_what_serves(self, place: tuple[str, str]) -> None:
        serving = run(self.work.production(*place))
        if serving is not None:
            self.give_up(serving.id)

    @rule(deployment=known)
    def give_up(self, deployment: str) -> None:
        """The runtime says that it fails, whether it serves or not yet."""
        run(handlers.give_up(self.work, deployment, "crash loop"))

    @rule(baked=st.sampled_from([False, False, True]))
    def let_time_pass(self, baked: bool) -> None:
        self.work.all_baked = baked

    @rule(target=known, late=LATE, answers=st.booleans())
    def perform_put_back(self, late: int, answers: bool):
        """A stored instruction is performed, mostly the newest; it may have been performed before."""
        waiting = [one for one, instruction in self.work.instructed if instruction is Instruction.PUT_BACK]
        if len(waiting) <= late:
            return multiple()
        before = set(self.work.deployments)
        broken = self.work.deployments[waiting[-1 - late]]
        under_way = run(self.work.newer_under_way(broken))
        run(handlers.put_back(self.work, broken.project_id, broken.id))
        made = set(self.work.deployments) - before
        assert len(made) <= 1
        for one in made:
            new = self.work.deployments[one]
            assert not under_way, "what somebody asked for since then goes on"
            assert broken.state is State.PRODUCTION
            assert broken.broke
            assert new.state is (State.PROVISIONING if new.static else State.QUEUED), "an app waits for room"
            assert new.number > broken.number
            if answers:
                self.grant(one)
                self.publish(one)
                self.answer(one, 1)
                self.switch(one, 0)
        return multiple(*made)

    @rule(deployment=known, event=st.sampled_from([Cancelled("ada"), DeadlinePassed(60), ProvisionFailed("it is gone")]))
    def end(self, deployment: str, event: Event) -> None:
        self.apply(deployment, event)

    @rule()
    def remove_project(self) -> None:
        self.removed.add("blog")
        run(handlers.remove_project(self.work, "blog", "ada"))

    @invariant()
    def holds(self) -> None:
        """What the architecture promises, of every environment, after every event."""
        for place in ENVIRONMENTS:
            before = self.states.setdefault(place, {})
            after = {d.id: d for d in self.work.place(*place)}
            self._check_moves(before, {one: d.state.value for one, d in after.items()})
            serving = [d for d in after.values() if d.state is State.PRODUCTION]
            assert len(serving) <= 1
            assert not any(d.automatic and d.broke for d in after.values()), "one hop for each break"
            assert sum(d.state is State.BUILDING for d in after.values()) <= 1
            assert all(d.artifact for d in after.values() if d.state in (State.PROVISIONING, State.PRODUCTION))
            if any(one in self.work.served for one in after) and place[0] not in self.removed:
                assert serving, "something serves from the first release on, whatever fails"
                assert serving[0].number == max(after[one].number for one in self.work.served if one in after)
            self.states[place] = {one: d.state.value for one, d in after.items()}

    @staticmethod
    def _check_moves(before: dict[str, str], after: dict[str, str]) -> None:
        assert set(before) <= set(after), "nothing is lost"
        for one, state in before.items():
            # A request that finds its artifact passes through several states in one step: any way through them is a legal one.
            assert after[one] == state or MAY_BECOME[state], f"{state} is the end, but it is {after[one]} now"

    @invariant()
    def slots_are_held_by_builds_alone(self) -> None:
        building = {d.id for d in self.work.deployments.values() if d.state is State.BUILDING}
        assert self.work.reserved == building
        assert len(building) <= SLOTS


TestDeployments = Deployments.TestCase
TestDeployments.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
