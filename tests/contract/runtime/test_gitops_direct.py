"""Mode `direct` with a repository: what serves is committed, once a release, and a running app never suffers for it."""

from __future__ import annotations

import base64
from functools import partial
from pathlib import Path

import pytest
from neighbours.gitops import Desired, recording
from neighbours.kube_api import KubeApi
from neighbours.kube_runtime import CRASHES, SERVES, Ground, until
from neighbours.sealed import unsealed

from shipoff.runtime.adapters.gitops.origins import Folder
from shipoff.runtime.domain import EmitFailed, EmitReady, InstanceState, Phase, Process, Workload

pytestmark = pytest.mark.xdist_group("kubernetes")
OTHER = (*SERVES, "-v")
CANARY = "hunter2-canary-of-a-secret"


@pytest.fixture
def desired(ground: Ground, tmp_path: Path) -> Desired:
    """The repository that runtimes on the cluster write to."""
    ground.make = partial(recording, Folder(tmp_path / "gitops.git", "main"))
    return Desired(tmp_path / "gitops.git")


def _is_complete(ground: Ground, workload: Workload) -> bool:
    instances = ground.store.rows[workload.deployment_id][1]
    return bool(instances) and all(one.state is InstanceState.READY for one in instances)


async def test_a_release_that_serves_is_one_commit_that_says_who_and_why(ground: Ground, desired: Desired) -> None:
    async with ground.runtime() as runtime:
        workload = ground.workload(requested_by="github:ada", why="webhook of 1a2b: Mend\nDeployment: x", request_id="req-7")
        await ground.ready(runtime, workload)
    names = ground.names[workload.deployment_id]
    assert desired.subjects() == ["Release shop (production)"]
    assert desired.git("log", "-1", "--format=%an <%ae>", "main") == "Shipoff <shipoff@example.com>"
    trailers = dict(line.split(": ", 1) for line in desired.git("log", "-1", "--format=%(trailers:only)", "main").splitlines())
    assert trailers == {
        "Why": "webhook of 1a2b: Mend Deployment: x",
        "Requested-by": "github:ada",
        "Deployment": workload.deployment_id,
        "Project": workload.project_id,
        "Request": "req-7",
    }
    assert desired.selected(names) == names.release == await ground.routed(workload)
    assert {path.partition("/")[0] for path in desired.files(names)} == {"_project", "production"}


async def test_the_next_release_takes_the_place_and_the_one_before_is_in_the_history(ground: Ground, desired: Desired) -> None:
    async with ground.runtime(drain_s=0.0) as runtime:
        sealed = ground.sealed({"A": "1"})
        first, second = ground.workload(sealed=sealed), ground.workload(*OTHER, sealed=sealed)
        await ground.ready(runtime, first)
        await ground.ready(runtime, second)
        names = ground.names[second.deployment_id]
        assert desired.selected(names) == names.release
        assert desired.releases(names) == {second.deployment_id}
        await ground.stopped(runtime, first)
        # A rollback is a commit like another: the first release's content again.
        third = ground.workload(sealed=sealed)
        await ground.ready(runtime, third)
    assert desired.subjects() == ["Release shop (production)"] * 3
    assert desired.selected(names) == ground.names[first.deployment_id].release
    # But for the deployments' ids: the same files, and the secret as it was sealed the first time.
    first_commit = desired.git("rev-list", "main").splitlines()[-1]
    changed = [
        Path(path).name.partition("-")[0] for path in desired.git("diff", "--name-only", first_commit, "main").splitlines()
    ]
    assert sorted(changed) == ["deployment", "ingress", "poddisruptionbudget", "service"]


async def test_a_release_that_never_serves_is_never_committed(ground: Ground, desired: Desired) -> None:
    async with ground.runtime() as runtime:
        first, broken = ground.workload(), ground.workload(*CRASHES)
        await ground.ready(runtime, first)
        await ground.apply(runtime, broken)
        await ground.told(broken, EmitFailed)
        await until(lambda: ground.store.rows[broken.deployment_id][0].settled, "it was not cleared away")
    assert len(desired.subjects()) == 1
    assert desired.releases(ground.names[first.deployment_id]) == {first.deployment_id}


async def test_what_is_stopped_leaves_the_repository_and_the_history_keeps_it(ground: Ground, desired: Desired) -> None:
    async with ground.runtime() as runtime:
        workload = ground.workload()
        await ground.ready(runtime, workload)
        await ground.stopped(runtime, workload)
    assert desired.files(ground.names[workload.deployment_id]) == {}
    assert desired.subjects()[-1] == f"Remove {workload.deployment_id} from shop (production)"


async def test_no_object_of_the_repository_holds_a_secret_in_clear(ground: Ground, desired: Desired) -> None:
    async with ground.runtime() as runtime:
        workload = ground.workload(variables={"PASSWORD": CANARY})
        await ground.ready(runtime, workload)
    names = ground.names[workload.deployment_id]
    found = desired.files(names)[f"production/sealedsecret-{names.secret}.yaml"]
    # It is really in there: only the cluster's key opens it.
    assert base64.b64decode(unsealed(found)["data"]["PASSWORD"]).decode() == CANARY
    encoded = [CANARY.encode(), base64.b64encode(CANARY.encode()), CANARY.encode().hex().encode(), CANARY[:8].encode()]
    objects = desired.git("cat-file", "--batch-all-objects", "--batch-check=%(objectname)").split()
    assert len(objects) > 15
    for one in objects:
        kind = desired.git("cat-file", "-t", one)
        content = desired.git("cat-file", kind, one).encode() if kind != "tree" else b""
        assert not [canary for canary in encoded if canary in content], one


async def test_while_the_repository_is_away_a_new_release_waits_and_says_why(ground: Ground, desired: Desired) -> None:
    async with ground.runtime() as runtime:
        first, second = ground.workload(), ground.workload(*OTHER)
        await ground.ready(runtime, first)
        away = desired.path.with_suffix(".away")
        desired.path.rename(away)
        desired.path.write_text("no repository")
        second = await ground.apply(runtime, second)
        await until(lambda: _is_complete(ground, second), "its instance did not become ready")
        ground.ahead_s += second.ready_timeout_s
        failed = await ground.told(second, EmitFailed)
        assert "the GitOps repository" in failed.reason
        assert await ground.routed(second) == ground.names[first.deployment_id].release
        # What serves already has nothing to do with it.
        assert ground.store.rows[first.deployment_id][0].phase is Phase.READY


async def test_a_release_that_waited_goes_on_when_the_repository_is_back(ground: Ground, desired: Desired) -> None:
    desired.path.write_text("no repository")
    async with ground.runtime() as runtime:
        workload = await ground.apply(runtime, ground.workload())
        await until(lambda: _is_complete(ground, workload), "its instance did not become ready")
        assert not await ground.routed(workload)
        desired.path.unlink()
        await ground.told(workload, EmitReady)
    assert len(desired.subjects()) == 1


async def test_a_service_that_was_deleted_comes_back_while_the_repository_is_away(
    ground: Ground, desired: Desired, fake: KubeApi
) -> None:
    async with ground.runtime() as runtime:
        workload = ground.workload()
        await ground.ready(runtime, workload)
        names = ground.names[workload.deployment_id]
        desired.path.rename(desired.path.with_suffix(".away"))
        desired.path.write_text("no repository")
        fake.store.delete(("services", names.namespace, names.environment))
        await until(lambda: fake.store.of("services", names.namespace), "the Service did not come back")
        assert ground.store.rows[workload.deployment_id][0].phase is Phase.READY


async def test_scaling_is_committed_too(ground: Ground, desired: Desired) -> None:
    async with ground.runtime() as runtime:
        workload = ground.workload()
        await ground.ready(runtime, workload)
        names = ground.names[workload.deployment_id]
        await runtime.handlers.scale(workload.deployment_id, 2)
        path = f"production/deployment-{names.process('web')}.yaml"
        await until(lambda: desired.files(names)[path]["spec"]["replicas"] == 2, "it was not committed")


async def test_a_workload_without_web_is_committed(ground: Ground, desired: Desired) -> None:
    async with ground.runtime() as runtime:
        workload = ground.workload(processes=(Process("worker", SERVES),), hosts=())
        await ground.ready(runtime, workload)
        assert desired.releases(ground.names[workload.deployment_id]) == {workload.deployment_id}


async def test_a_runtime_that_starts_again_commits_nothing_anew(ground: Ground, desired: Desired) -> None:
    async with ground.runtime() as runtime:
        workload = ground.workload(variables={"A": "1"})
        await ground.ready(runtime, workload)
    head = desired.git("rev-parse", "main")
    async with ground.runtime() as runtime:
        for _ in range(3):
            observed = await runtime.driver.observe(*ground.store.rows[workload.deployment_id], probe=())
            assert observed.routed
            assert not observed.astray
    assert desired.git("rev-parse", "main") == head
