"""The use cases of projects, their settings and variables. Called by server.py."""

from __future__ import annotations

import binascii
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from shipoff.common.errors import AlreadyExists, InvalidInput, NotFound, PreconditionFailed
from shipoff.common.ids import new_id
from shipoff.common.sealing import Sealer
from shipoff.project.domain import (
    PRODUCTION,
    BuildSettings,
    Configuration,
    Deadlines,
    Project,
    Repository,
    RunSettings,
    Variable,
    check_build,
    check_deadlines,
    check_project_name,
    check_run,
    check_set,
    check_variable_name,
    check_variable_set,
    check_variables,
    host_label,
    hosts,
    next_versions,
)
from shipoff.project.ports import Store, Work
from shipoff.project.repositories import check_ref, follow_url

_PAGE = 50


@dataclass(frozen=True)
class Rules:
    """What the operator decided."""

    base_domain: str = "localhost"
    # Hosts with private addresses that repositories may be cloned from.
    allowed_hosts: tuple[str, ...] = ()
    # How long a project may have things take.
    deadlines: Deadlines = field(default_factory=Deadlines)


@dataclass(frozen=True)
class Changes:
    """Settings to set; None: leave them."""

    build: BuildSettings | None = None
    run: RunSettings | None = None
    repository: Repository | None = None


@dataclass(frozen=True)
class Shown:
    """A variable as it is listed; `value` empty unless revealed."""

    variable: Variable
    value: str = ""


async def live_project(work: Work, project_id: str) -> Project:
    """The project, locked. Raises NotFound when there is none, or it was deleted."""
    project = await work.project(project_id)
    if project is None:
        raise NotFound(f"there is no project {project_id}")
    return project


async def in_environment(work: Work, project: Project, environment: str) -> Project:
    """The (locked) project with this environment, which is made on first use.

    Raises InvalidInput for a name that cannot be one, AlreadyExists when its host is another project's.
    """
    label = host_label(project.name, environment)
    if environment in project.environments:
        return project
    if not await work.add_environment(project.id, environment, label=label):
        raise AlreadyExists(
            f"the host name {label} is taken by another project", field="environment", remedy="choose another environment name"
        )
    return replace(project, environments=(*project.environments, environment))


async def snapshot(work: Work, sealer: Sealer, project: Project, environment: str) -> Configuration:
    """The configuration of an environment as it is now."""
    current = [v for v in await work.newest_variables(project.id, environment) if v.sealed is not None]
    sealed = sealer.seal_variables(
        project.data_key,
        {variable.name: opened(sealer, project, variable) for variable in current},
        {variable.name: variable.version for variable in current},
    )
    return Configuration(project.configuration_version, project.build, project.run, sealed.SerializeToString())


def opened(sealer: Sealer, project: Project, variable: Variable) -> str:
    """A variable's value. Raises DataLoss."""
    return sealer.open_value(project.data_key, variable.sealed or b"").decode()


class Projects:
    """What exists, how it is built and run, and with which variables."""

    def __init__(self, store: Store, sealer: Sealer, rules: Rules) -> None:
        self._store = store
        self._sealer = sealer
        self.rules = rules

    async def create(self, team_id: str, name: str, settings: Changes) -> Project:
        """Raises InvalidInput, and AlreadyExists when the name or its host is taken."""
        check_project_name(name)
        project = self._changed(
            Project(new_id(), team_id, name, BuildSettings(), RunSettings(), None, self._sealer.new_data_key()), settings
        )
        async with self._store.work() as work:
            made = await work.insert_project(project) and await work.add_environment(project.id, PRODUCTION, label=name)
            if not made:
                raise AlreadyExists(f"the project name {name} is taken", field="name", remedy="choose another name")
            return await live_project(work, project.id)

    async def get(self, id_or_name: str) -> Project:
        """Raises NotFound."""
        project = await self._store.find_project(id_or_name)
        if project is None:
            raise NotFound("there is no such project", remedy="see your projects: shipoff list")
        return project

    async def list(self, team_ids: Sequence[str], *, page_size: int, page_token: str) -> tuple[Sequence[Project], str]:
        """A page by name, and the token of the next one. No teams, no projects."""
        limit = page_size or _PAGE
        found = await self._store.list_projects(team_ids, after=_decoded(page_token), limit=limit + 1)
        page = found[:limit]
        return page, urlsafe_b64encode(page[-1].name.encode()).decode() if len(found) > limit else ""

    async def update(self, project_id: str, changes: Changes) -> Project:
        """Raises NotFound, InvalidInput."""
        async with self._store.work() as work:
            before = await live_project(work, project_id)
            after = self._changed(before, changes)
            if (after.build, after.run) != (before.build, before.run):
                after = replace(after, configuration_version=before.configuration_version + 1)
            await work.save_project(after)
        return after

    def _changed(self, project: Project, changes: Changes) -> Project:
        check_deadlines(changes.build or project.build, changes.run or project.run, self.rules.deadlines)
        return replace(
            project,
            build=check_build(changes.build) if changes.build else project.build,
            run=check_run(changes.run) if changes.run else project.run,
            repository=self._checked(changes.repository) if changes.repository else project.repository,
        )

    def _checked(self, repository: Repository) -> Repository:
        url = follow_url(repository.url, field="repository.url", allowed=self.rules.allowed_hosts)
        branch = repository.branch.removeprefix("refs/heads/")
        return Repository(url, check_ref(branch, field="repository.branch") if branch else "")

    async def delete(self, project_id: str, *, deleted_by: str, only_unused: bool = False) -> None:
        """The same again does nothing. Raises PreconditionFailed for a project in use where only an unused one is to go."""
        async with self._store.work() as work:
            # Locked: a deployment is either accepted by now, or will find that the project is gone.
            project = await work.project(project_id)
            if project is None:
                return
            if only_unused and (project.is_set_up or await work.has_request(project.id)):
                raise PreconditionFailed(f"{project.name} is in use", remedy=f"see it: shipoff status -p {project.name}")
            await work.delete_project(project, deleted_by=deleted_by)

    async def set_variables(self, project_id: str, environment: str, changes: Mapping[str, str], *, changed_by: str) -> int:
        """Sets these, leaves the others; the configuration's version. A value that is the same already is no change.

        Raises NotFound, InvalidInput.
        """
        check_variables(changes)
        async with self._store.work() as work:
            project = await in_environment(work, await live_project(work, project_id), environment)
            newest = await work.newest_variables(project_id, environment)
            before = {v.name: opened(self._sealer, project, v) for v in newest if v.sealed is not None}
            check_variable_set({**before, **changes})
            changed = {name: value for name, value in changes.items() if before.get(name) != value}
            versions = next_versions(newest, changed)
            variables = [
                Variable(name, versions[name], self._sealer.seal_value(project.data_key, value.encode()), changed_by)
                for name, value in changed.items()
            ]
            return await self._write(work, project, environment, variables)

    async def unset_variables(self, project_id: str, environment: str, names: Sequence[str], *, changed_by: str) -> int:
        """Removes these; the configuration's version. Raises InvalidInput; NotFound, removing none, if one is not set."""
        for name in names:
            check_variable_name(name)
        async with self._store.work() as work:
            project = await in_environment(work, await live_project(work, project_id), environment)
            newest = await work.newest_variables(project_id, environment)
            check_set(project, environment, names, known={v.name for v in newest if v.sealed is not None})
            versions = next_versions(newest, dict.fromkeys(names))
            variables = [Variable(name, version, None, changed_by) for name, version in versions.items()]
            return await self._write(work, project, environment, variables)

    @staticmethod
    async def _write(work: Work, project: Project, environment: str, variables: Sequence[Variable]) -> int:
        if not variables:
            return project.configuration_version
        await work.add_variables(project.id, environment, variables)
        after = replace(project, configuration_version=project.configuration_version + 1)
        await work.save_project(after)
        return after.configuration_version

    async def list_variables(self, project_id: str, environment: str, *, reveal: bool) -> Sequence[Shown]:
        """What is set now, by name; nothing for an environment that was never used. Raises NotFound, InvalidInput."""
        async with self._store.work() as work:
            project = await live_project(work, project_id)
            host_label(project.name, environment)
            current = [v for v in await work.newest_variables(project_id, environment) if v.sealed is not None]
        return [Shown(v, opened(self._sealer, project, v) if reveal else "") for v in current]

    async def configuration(self, project_id: str, environment: str) -> tuple[Configuration, Sequence[str]]:
        """The snapshot of an environment and its hosts. Raises NotFound, InvalidInput, AlreadyExists."""
        async with self._store.work() as work:
            project = await in_environment(work, await live_project(work, project_id), environment)
            configuration = await snapshot(work, self._sealer, project, environment)
        return configuration, hosts(project.name, environment, self.rules.base_domain)


def _decoded(page_token: str) -> str:
    try:
        return b64decode(page_token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise InvalidInput("the cursor is not one of this list", field="page_token") from error
