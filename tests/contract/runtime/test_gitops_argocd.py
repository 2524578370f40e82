"""Mode `argocd`: everything is a commit, Argo CD applies, and what it cannot do is the deployment's reason."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lightkube import AsyncClient, codecs
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.apiextensions_v1 import CustomResourceDefinition
from lightkube.resources.core_v1 import Namespace, Secret, Service
from neighbours.argocd import CRD, ArgoStandIn
from neighbours.gitops import Desired, argo_on
from neighbours.kube_api import KubeApi
from neighbours.kube_runtime import CRASHES, REAL, SERVES, Ground, exists, until

from shipoff.common.ids import new_id
from shipoff.runtime.domain import EmitFailed, EmitReady, Workload
from shipoff.runtime.manifests import Names
from shipoff.runtime.manifests.application import Application

pytestmark = pytest.mark.xdist_group("kubernetes")
OTHER = (*SERVES, "-v")


@dataclass
class Argo:
    """The cluster with Argo CD on it, and the repository that it reads."""

    ground: Ground
    controller: ArgoStandIn
    desired: Desired

    async def application(self, names: Names) -> Any:
        """The project's, None where there is none."""
        found = [one async for one in self.ground.client.list(Application, namespace=self.controller.namespace)]
        return next((one for one in found if one.metadata.name == names.namespace), None)

    async def synced(self, names: Names) -> bool:
        """Whether Argo CD says that the cluster is what the repository says."""
        app = await self.application(names)
        sync = (app.status or {}).get("sync", {}) if app is not None else {}
        return sync == {"status": "Synced", "revision": self.desired.git("rev-parse", "main")}

    def names(self, workload: Workload) -> Names:
        """What the workload's objects are called."""
        return self.ground.names[workload.deployment_id]


@pytest.fixture
async def argo(ground: Ground, tmp_path: Path) -> AsyncIterator[Argo]:
    """With an empty repository. On a real cluster with the Application's kind, in a namespace of its own."""
    namespace = f"shipoff-test-argocd-{new_id()[-12:]}"
    if REAL:
        await ground.client.apply(codecs.from_dict(CRD), field_manager="shipoff-tests", force=True)
        await until(lambda: _is_served(ground.client), "the Application's kind is not served")
    made = Namespace(metadata=ObjectMeta(name=namespace, labels={"shipoff.dev/test": "argocd"}))
    await ground.client.apply(made, field_manager="shipoff-tests")
    path = tmp_path / "gitops.git"
    ground.make = argo_on(path, namespace)
    controller = ArgoStandIn(ground.client, namespace, every_s=0.3 if REAL else 0.02)
    async with controller.working():
        yield Argo(ground, controller, Desired(path))
        await ground.tidy()
        async for one in ground.client.list(Application, namespace=namespace):
            await ground.client.delete(Application, one.metadata.name, namespace=namespace)
        await until(lambda: _is_free(ground.client, namespace), "an Application is left")
    await ground.client.delete(Namespace, namespace)


async def _is_served(client: AsyncClient) -> bool:
    found = await client.get(CustomResourceDefinition, CRD["metadata"]["name"])
    conditions = (found.status.conditions or []) if found.status else []
    return any(one.type == "Established" and one.status == "True" for one in conditions)


async def _is_free(client: AsyncClient, namespace: str) -> bool:
    return not [one async for one in client.list(Application, namespace=namespace)]


async def test_a_release_comes_up_by_commits_alone(argo: Argo) -> None:
    ground = argo.ground
    async with ground.runtime() as runtime:
        workload = await _ready(argo, runtime, ground.workload(variables={"TOKEN": "t0p"}))
        names = argo.names(workload)
        assert argo.desired.subjects() == [
            "Release shop (production)",
            f"Switch shop (production) to {workload.deployment_id}",
        ]
        assert await ground.routed(workload) == names.release == argo.desired.selected(names)
        await until(lambda: argo.synced(names), "it is not in sync")
        secret = await ground.client.get(Secret, names.secret, namespace=names.namespace)
        assert secret.data == {"TOKEN": "dDBw"}
        app = await argo.application(names)
        assert app.spec["source"]["path"] == f"apps/{names.namespace}"
        assert app.spec["destination"] == {"server": "https://kubernetes.default.svc", "namespace": names.namespace}
        assert app.spec["syncPolicy"]["automated"] == {"prune": True, "selfHeal": True, "allowEmpty": False}


async def test_the_driver_itself_writes_nothing_but_the_application(argo: Argo, fake: KubeApi) -> None:
    ground = argo.ground
    own: list[tuple[str, str]] = []
    answer = fake.store.apply

    def noted(key: Any, wanted: Any, manager: str, *, force: bool) -> Any:
        own.append((manager, key[0]))
        return answer(key, wanted, manager, force=force)

    fake.store.apply = noted  # type: ignore[method-assign]
    async with ground.runtime(drain_s=0.0) as runtime:
        first = await _ready(argo, runtime, ground.workload())
        await _ready(argo, runtime, ground.workload(*OTHER))
        await ground.stopped(runtime, first)
    assert {kind for manager, kind in own if manager == "shipoff"} == {"applications"}
    assert not [path for method, path in fake.requests if method == "DELETE" and "/pods/" in path]


async def test_a_cut_over_is_a_commit_beside_a_commit_of_the_switch_and_one_that_removes_the_old(argo: Argo) -> None:
    ground, desired = argo.ground, argo.desired
    async with ground.runtime(drain_s=0.0) as runtime:
        first = await _ready(argo, runtime, ground.workload())
        second = await _ready(argo, runtime, ground.workload(*OTHER))
        names = argo.names(second)
        assert desired.releases(names) == {first.deployment_id, second.deployment_id}
        before = desired.git("show", f"main~1:apps/{names.namespace}/production/service-production.yaml")
        assert argo.names(first).release in before
        assert names.release in desired.git("show", f"main:apps/{names.namespace}/production/service-production.yaml")
        await ground.stopped(runtime, first)
        assert desired.releases(names) == {second.deployment_id}
        assert len(await ground.pods(second)) == 1
        assert not await ground.pods(first)
    assert desired.subjects()[2:] == [
        "Release shop (production)",
        f"Switch shop (production) to {second.deployment_id}",
        f"Remove {first.deployment_id} from shop (production)",
    ]


async def test_a_rollback_is_a_commit_of_the_switch_while_the_release_before_still_runs(argo: Argo) -> None:
    ground = argo.ground
    async with ground.runtime() as runtime:
        sealed = ground.sealed({"A": "1"})
        first = await _ready(argo, runtime, ground.workload(sealed=sealed))
        [pod] = await ground.pods(first)
        await _ready(argo, runtime, ground.workload(*OTHER, sealed=sealed))
        back = await _ready(argo, runtime, ground.workload(sealed=sealed))
        assert argo.names(back).release == argo.names(first).release == await ground.routed(back)
        assert [one.metadata.name for one in await ground.pods(back)] == [pod.metadata.name]
    assert argo.desired.subjects()[-1] == f"Switch shop (production) to {back.deployment_id}"


async def test_a_release_that_crashes_is_taken_back_by_a_commit_and_the_old_one_serves(argo: Argo) -> None:
    ground = argo.ground
    async with ground.runtime() as runtime:
        first = await _ready(argo, runtime, ground.workload())
        broken = await ground.apply(runtime, ground.workload(*CRASHES))
        failed = await ground.told(broken, EmitFailed)
        assert "exit code 7" in failed.reason
        await until(lambda: ground.store.rows[broken.deployment_id][0].settled, "it was not cleared away")
        assert await ground.routed(first) == argo.names(first).release
        assert argo.desired.releases(argo.names(first)) == {first.deployment_id}


async def test_what_argo_cd_cannot_apply_is_the_deployment_s_reason(argo: Argo, fake: KubeApi) -> None:
    ground = argo.ground
    async with ground.runtime() as runtime:
        first = await _ready(argo, runtime, ground.workload())
        fault = fake.fail("PATCH", "/deployments/", 422, times=1_000_000)
        second = await ground.apply(runtime, ground.workload(*OTHER))
        deployment = argo.names(second).process("web")
        await until(lambda: _says(argo, second, "Failed"), "Argo CD did not fail")
        ground.ahead_s += second.ready_timeout_s
        failed = await ground.told(second, EmitFailed)
        assert "Argo CD cannot sync: one or more objects failed to apply" in failed.reason
        assert f"Deployment {deployment}: the test wants it so" in failed.reason
        fault.times = 0
        await until(lambda: ground.store.rows[second.deployment_id][0].settled, "it was not cleared away")
        assert await ground.routed(first) == argo.names(first).release


async def test_without_a_word_from_argo_cd_the_deployment_says_so(argo: Argo) -> None:
    ground = argo.ground
    argo.controller.runs = False
    async with ground.runtime() as runtime:
        workload = await ground.apply(runtime, ground.workload(ready_timeout_s=60.0))
        await until(lambda: argo.application(argo.names(workload)), "there is no Application")
        ground.ahead_s += workload.ready_timeout_s
        failed = await ground.told(workload, EmitFailed)
    assert "Argo CD has not" in failed.reason
    argo.controller.runs = True


async def test_a_secret_that_the_cluster_cannot_open_is_the_reason(argo: Argo, fake: KubeApi) -> None:
    ground = argo.ground
    argo.controller.key = 1
    async with ground.runtime() as runtime:
        workload = await ground.apply(runtime, ground.workload(variables={"A": "1"}))
        await until(lambda: _says(argo, workload, "no key could decrypt"), "the controller did not say so")
        ground.ahead_s += workload.ready_timeout_s
        failed = await ground.told(workload, EmitFailed)
    assert "a secret cannot be opened on the cluster" in failed.reason


async def test_drift_that_argo_cd_may_not_mend_is_shown_and_goes_when_it_is_mended(argo: Argo) -> None:
    ground = argo.ground
    async with ground.runtime() as runtime:
        workload = await _ready(argo, runtime, ground.workload())
        names = argo.names(workload)
        await until(lambda: argo.synced(names), "it is not in sync")
        argo.controller.syncs = False
        part = {"spec": {"ports": [{"name": "http", "port": 80, "targetPort": 1, "protocol": "TCP"}]}}
        await ground.client.patch(Service, names.environment, part, namespace=names.namespace, field_manager="somebody")
        row = ground.store.rows
        await until(
            lambda: row[workload.deployment_id][0].reason == "out of sync with the repository: Service production",
            "drift is not shown",
        )
        argo.controller.syncs = True
        await until(lambda: not row[workload.deployment_id][0].reason, "it is still shown")
        service = await ground.client.get(Service, names.environment, namespace=names.namespace)
        assert service.spec.ports[0].targetPort == "http"


async def test_the_last_release_takes_application_and_namespace_with_it(argo: Argo) -> None:
    ground = argo.ground
    async with ground.runtime() as runtime:
        workload = await _ready(argo, runtime, ground.workload())
        names = argo.names(workload)
        await ground.stopped(runtime, workload)
        assert argo.desired.files(names) == {}
        assert await argo.application(names) is None
        await until(lambda: _is_gone(ground.client, names.namespace), "the namespace is still there")


async def test_a_folder_that_somebody_removed_from_the_repository_comes_back(argo: Argo) -> None:
    ground = argo.ground
    async with ground.runtime() as runtime:
        workload = await _ready(argo, runtime, ground.workload())
        names, desired = argo.names(workload), argo.desired
        kept = desired.files(names)
        path = f"apps/{names.namespace}/production/deployment-{names.process('web')}.yaml"
        _without(desired, path)
        await until(lambda: set(desired.files(names)) == set(kept), "it was not committed again")
        await until(lambda: ground.pods(workload), "it does not run")


def _without(desired: Desired, path: str) -> None:
    """What a person does with `git rm` and `git push`."""
    work = desired.path.with_name("work")
    desired.git("clone", "--quiet", str(desired.path), str(work))
    person = Desired(work)
    person.git("rm", "--quiet", path)
    person.git("-c", "user.name=Eve", "-c", "user.email=eve@example.com", "commit", "--quiet", "-m", "Away with it")
    person.git("push", "--quiet")


async def _is_gone(client: AsyncClient, namespace: str) -> bool:
    return not await exists(client, namespace)


async def _says(argo: Argo, workload: Workload, words: str) -> bool:
    app = await argo.application(argo.names(workload))
    return app is not None and words in str(app.status)


async def _ready(argo: Argo, runtime: Any, workload: Workload) -> Workload:
    workload = await argo.ground.apply(runtime, workload)
    await argo.ground.told(workload, EmitReady)
    return workload
