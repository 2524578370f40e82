"""Projects, environments and variables on a real database."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa

from shipoff.common.errors import AlreadyExists, InvalidInput, NotFound, PreconditionFailed
from shipoff.common.ids import new_id
from shipoff.contracts.project.v1 import project_pb2 as pb
from shipoff.contracts.types.v1 import types_pb2


async def set_variables(project: Any, project_id: str, environment: str = "production", **variables: str) -> int:
    request = pb.SetVariablesRequest(project_id=project_id, environment=environment, variables=variables, changed_by="user-1")
    return (await project.stub.SetVariables(request)).configuration_version


async def listed(project: Any, project_id: str, environment: str = "production", *, reveal: bool = True) -> dict[str, Any]:
    request = pb.ListVariablesRequest(project_id=project_id, environment=environment, reveal=reveal)
    return {v.name: (v.value, v.version) for v in (await project.stub.ListVariables(request)).variables}


async def configuration(project: Any, project_id: str, environment: str = "production") -> types_pb2.Configuration:
    request = pb.SnapshotConfigurationRequest(project_id=project_id, environment=environment)
    return (await project.stub.SnapshotConfiguration(request)).configuration


async def test_a_project_is_found_by_id_and_by_name(project: Any) -> None:
    made = await project.project("shop", build=types_pb2.BuildSettings(root_directory="./web/"))
    for key in (made.id, made.id.upper(), "shop"):
        assert (await project.stub.GetProject(pb.GetProjectRequest(id_or_name=key))).project == made
    assert made.build.root_directory == "web"
    assert [(e.name, list(e.hosts)) for e in made.environments] == [("production", ["shop.apps.example.com"])]
    for key in ("other", new_id(), "x\0", "'; DROP TABLE projects; --"):
        with pytest.raises(NotFound):
            await project.stub.GetProject(pb.GetProjectRequest(id_or_name=key))


async def test_a_name_belongs_to_one_live_project_of_the_platform(project: Any) -> None:
    first = await project.project("shop")
    with pytest.raises(AlreadyExists) as raised:
        await project.stub.CreateProject(pb.CreateProjectRequest(team_id=new_id(), name="shop"))
    assert raised.value.field == "name"
    await project.stub.DeleteProject(pb.DeleteProjectRequest(project_id=first.id, deleted_by="user-1"))
    assert (await project.project("shop")).id != first.id


async def test_of_many_who_ask_for_a_name_at_once_one_gets_it(project: Any) -> None:
    results = await asyncio.gather(*(project.project("shop") for _ in range(6)), return_exceptions=True)
    assert sum(isinstance(result, pb.Project) for result in results) == 1
    assert sum(isinstance(result, AlreadyExists) for result in results) == 5
    assert await project.count("projects") == 1


@pytest.mark.parametrize("name", ["www", "kube-system", "a" * 300, "Shop", "a_b"])
async def test_a_refused_name_names_the_field(project: Any, name: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        await project.project(name)
    assert raised.value.field == "name"
    assert raised.value.message


async def test_a_host_belongs_to_one_environment(project: Any) -> None:
    shop = await project.project("shop")
    await configuration(project, shop.id, "staging")
    with pytest.raises(AlreadyExists):
        await project.project("shop-staging")
    taken = await project.project("shop-dev")
    with pytest.raises(AlreadyExists) as raised:
        await configuration(project, shop.id, "dev")
    assert raised.value.field == "environment"
    await project.stub.DeleteProject(pb.DeleteProjectRequest(project_id=taken.id))
    await configuration(project, shop.id, "dev")
    await project.stub.DeleteProject(pb.DeleteProjectRequest(project_id=shop.id))
    await project.project("shop-staging")


async def test_an_environment_is_made_on_first_use(project: Any) -> None:
    shop = await project.project("shop")
    assert await listed(project, shop.id, "staging") == {}
    await set_variables(project, shop.id, "staging", A="1")
    await asyncio.gather(*(configuration(project, shop.id, "qa") for _ in range(4)))
    found = (await project.stub.GetProject(pb.GetProjectRequest(id_or_name="shop"))).project
    assert [(e.name, list(e.hosts)) for e in found.environments] == [
        ("production", ["shop.apps.example.com"]),
        ("staging", ["shop-staging.apps.example.com"]),
        ("qa", ["shop-qa.apps.example.com"]),
    ]


async def test_pages_go_through_a_teams_projects_by_name(project: Any) -> None:
    for name in ("beta", "alpha", "gamma"):
        await project.project(name)
    await project.stub.CreateProject(pb.CreateProjectRequest(team_id=new_id(), name="anothers"))
    names: list[str] = []
    token = ""
    while True:
        page = await project.stub.ListProjects(
            pb.ListProjectsRequest(team_ids=[project.team_id], page_size=2, page_token=token)
        )
        names += [p.name for p in page.projects]
        token = page.next_page_token
        if not token:
            break
    assert names == ["alpha", "beta", "gamma"]
    assert not (await project.stub.ListProjects(pb.ListProjectsRequest())).projects


@pytest.mark.parametrize("token", ["?", "é", "abc", "_w=="])
async def test_a_foreign_cursor_is_invalid_input(project: Any, token: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        await project.stub.ListProjects(pb.ListProjectsRequest(team_ids=[project.team_id], page_token=token))
    assert raised.value.field == "page_token"


async def test_an_update_replaces_what_is_present_and_counts(project: Any) -> None:
    shop = await project.project("shop", build=types_pb2.BuildSettings(build_command="make"))
    updated = await project.stub.UpdateProject(
        pb.UpdateProjectRequest(project_id=shop.id, run=types_pb2.RunSettings(replicas=3, health_path="/ok"))
    )
    assert updated.project.build.build_command == "make"
    assert updated.project.run.replicas == 3
    assert (await configuration(project, shop.id)).version == 2
    same = pb.UpdateProjectRequest(project_id=shop.id, run=types_pb2.RunSettings(replicas=3, health_path="/ok"))
    await project.stub.UpdateProject(same)
    assert (await configuration(project, shop.id)).version == 2
    with pytest.raises(InvalidInput) as raised:
        await project.stub.UpdateProject(
            pb.UpdateProjectRequest(project_id=shop.id, build=types_pb2.BuildSettings(root_directory="../../etc"))
        )
    assert raised.value.field == "build.root_directory"


async def test_a_project_follows_only_what_can_be_cloned(project: Any) -> None:
    followed = await project.project("shop", repository=pb.Repository(url="git@github.com:ada/engine.git", branch="release"))
    assert (followed.repository.url, followed.repository.branch) == ("https://github.com/ada/engine.git", "release")
    for repository in [{"url": "file:///etc"}, {"url": "https://github.com/a/b", "branch": "--upload-pack=x"}]:
        with pytest.raises(InvalidInput) as raised:
            await project.project("evil", repository=pb.Repository(**repository))
        assert raised.value.field.startswith("repository.")


async def test_variables_are_versioned_and_hidden_until_revealed(project: Any) -> None:
    shop = await project.project("shop")
    assert await set_variables(project, shop.id, A="1", B="two\nlines=") == 2
    assert await set_variables(project, shop.id, A="2", B="two\nlines=") == 3
    assert await listed(project, shop.id) == {"A": ("2", 2), "B": ("two\nlines=", 1)}
    assert await listed(project, shop.id, reveal=False) == {"A": ("", 2), "B": ("", 1)}
    assert await set_variables(project, shop.id, A="2") == 3
    unset = pb.UnsetVariablesRequest(project_id=shop.id, environment="production", names=["A"], changed_by="user-2")
    assert (await project.stub.UnsetVariables(unset)).configuration_version == 4
    assert await listed(project, shop.id) == {"B": ("two\nlines=", 1)}
    await set_variables(project, shop.id, A="3")
    assert (await listed(project, shop.id))["A"] == ("3", 4)
    history = await project.database.all(sa.text("SELECT changed_by FROM variables WHERE name = 'A' ORDER BY version"))
    assert [row["changed_by"] for row in history] == ["user-1", "user-1", "user-2", "user-1"]


async def test_unsetting_what_is_not_set_removes_nothing_and_names_it(project: Any) -> None:
    shop = await project.project("shop")
    await set_variables(project, shop.id, A="1", B="2")

    async def unset(*names: str, environment: str = "production") -> NotFound:
        request = pb.UnsetVariablesRequest(project_id=shop.id, environment=environment, names=names, changed_by="user-1")
        with pytest.raises(NotFound) as raised:
            await project.stub.UnsetVariables(request)
        return raised.value

    refusal = await unset("A", "NOPE")
    assert refusal.message == "NOPE is not set in production of shop"
    assert refusal.remedy == "see what is set: shipoff env list -p shop"
    assert sorted(await listed(project, shop.id)) == ["A", "B"]
    assert (await unset("A", environment="staging")).remedy.endswith("shipoff env list -p shop -e staging")
    found = await project.stub.GetProject(pb.GetProjectRequest(id_or_name="shop"))
    assert [e.name for e in found.project.environments] == ["production"], "asking makes no environment"


async def test_only_an_unused_project_goes_where_no_more_is_asked(project: Any) -> None:
    async def delete(project_id: str) -> None:
        await project.stub.DeleteProject(pb.DeleteProjectRequest(project_id=project_id, deleted_by="user-1", only_unused=True))

    fresh, configured, deployed = [await project.project(name) for name in ("fresh", "configured", "deployed")]
    await project.upload(fresh.id)
    await set_variables(project, configured.id, A="1")
    await project.request(deployed.id)
    await delete(fresh.id)
    for used in (configured, deployed):
        with pytest.raises(PreconditionFailed):
            await delete(used.id)
    listing = await project.stub.ListProjects(pb.ListProjectsRequest(team_ids=[project.team_id]))
    assert [found.name for found in listing.projects] == ["configured", "deployed"]


async def test_environments_have_their_own_variables(project: Any) -> None:
    shop = await project.project("shop")
    await set_variables(project, shop.id, A="live")
    await set_variables(project, shop.id, "staging", A="try")
    assert await listed(project, shop.id) == {"A": ("live", 1)}
    assert await listed(project, shop.id, "staging") == {"A": ("try", 1)}


async def test_concurrent_changes_all_count(project: Any) -> None:
    shop = await project.project("shop")
    versions = await asyncio.gather(*(set_variables(project, shop.id, A=str(n)) for n in range(8)))
    assert sorted(versions) == list(range(2, 10))
    assert (await listed(project, shop.id))["A"][1] == 8


@pytest.mark.parametrize("name", ["LD_PRELOAD", "BASH_ENV", "PATH", "A\nB", "A=B", ""])
async def test_a_refused_variable_changes_nothing(project: Any, name: str) -> None:
    shop = await project.project("shop")
    with pytest.raises(InvalidInput) as raised:
        await set_variables(project, shop.id, **{"GOOD": "1", name: "x"})
    assert raised.value.field == "variables"
    assert await listed(project, shop.id) == {}


async def test_a_snapshot_is_sealed_and_opens_with_the_master_key_only(project: Any) -> None:
    shop = await project.project("shop")
    await set_variables(project, shop.id, TOKEN="hunter2-hunter2")
    taken = await configuration(project, shop.id)
    assert b"hunter2" not in taken.SerializeToString()
    assert dict(taken.variables.versions) == {"TOKEN": 1}
    assert project.sealer().open_variables(taken.variables) == {"TOKEN": "hunter2-hunter2"}


async def test_no_value_lies_in_the_database_in_clear(project: Any) -> None:
    shop = await project.project("shop")
    await set_variables(project, shop.id, TOKEN="hunter2-hunter2")
    await project.request(shop.id)
    for table in ("projects", "variables", "deployment_requests", "outbox"):
        query = f"SELECT t::text AS everything FROM {table} t"  # noqa: S608 - a constant
        rows = await project.database.all(sa.text(query))
        assert rows
        assert all(b"hunter2-hunter2".hex() not in row["everything"] for row in rows)
        assert all("hunter2-hunter2" not in row["everything"] for row in rows)


async def test_a_deleted_project_is_gone_and_told_once(project: Any, eventually: Any) -> None:
    shop = await project.project("shop")
    await set_variables(project, shop.id, A="1")
    for _ in range(2):
        await project.stub.DeleteProject(pb.DeleteProjectRequest(project_id=shop.id, deleted_by="user-1"))
    events = await eventually(project.events)
    assert [(e.type, e.message.project_id, e.message.deleted_by) for e in events] == [
        ("shipoff.events.v1.ProjectDeleted", shop.id, "user-1")
    ]
    assert await project.count("variables") == 0
    for call in (
        project.request(shop.id),
        set_variables(project, shop.id, A="1"),
        listed(project, shop.id),
        configuration(project, shop.id),
        project.upload(shop.id),
        project.stub.GetProject(pb.GetProjectRequest(id_or_name=shop.id)),
        project.stub.UpdateProject(pb.UpdateProjectRequest(project_id=shop.id)),
    ):
        with pytest.raises(NotFound):
            await call
