"""Projects, environments and variables as values, and the rules their names and contents keep."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import IntEnum
from pathlib import PurePosixPath

from shipoff.common.errors import InvalidInput, NotFound

PRODUCTION = "production"

# RFC 1035, section 2.3.1, with the leading digit of RFC 1123.
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_LABEL_RULE = "small letters, digits and hyphens, at most 63, beginning and ending with a letter or a digit"
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Hosts that are the platform's own, that people take for it, or that mean something to clients and clusters.
_RESERVED = """
    account accounts admin administrator api app apps auth autoconfig autodiscover caddy cdn cloud cluster console
    dashboard default dns docs edge email ftp gateway git grafana health help hostmaster imap internal kube-node-lease
    kube-public kube-system kubernetes local localdomain localhost login mail metrics mx ns ns1 ns2 oauth platform pop
    postmaster registry root shipoff signin signup smtp ssh ssl sso status support webhook webhooks webmail wpad www
"""
RESERVED_LABELS = frozenset(_RESERVED.split())

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LONGEST_VARIABLE_NAME = 255
MOST_VALUE_BYTES = 64 << 10
MOST_VARIABLES = 500
MOST_VARIABLE_BYTES = 256 << 10
# What the platform sets itself, and what makes a loader, a shell or git run or read something else than what was started.
_REFUSED = """
    PATH PORT HOME TMPDIR PWD OLDPWD SHELL USER LOGNAME ENV BASH_ENV BASHOPTS SHELLOPTS IFS CDPATH PS4 PROMPT_COMMAND
    GCONV_PATH GLIBC_TUNABLES HOSTALIASES LOCPATH NLSPATH RES_OPTIONS PYTHONHOME PYTHONSTARTUP PERL5OPT RUBYOPT
    GIT_ASKPASS GIT_DIR GIT_EDITOR GIT_EXEC_PATH GIT_EXTERNAL_DIFF GIT_PAGER GIT_PROXY_COMMAND GIT_SSH GIT_SSH_COMMAND
    GIT_TEMPLATE_DIR GIT_WORK_TREE SSH_ASKPASS
"""
_REFUSED_VARIABLES = frozenset(_REFUSED.split())
_REFUSED_PREFIXES = ("LD_", "DYLD_", "BASH_FUNC_", "GIT_CONFIG", "SHIPOFF_")

LEAST_MEMORY_BYTES = 16 << 20


class Trigger(IntEnum):
    """What started a deployment: the numbers of the contract."""

    UPLOAD = 1
    GIT = 2
    WEBHOOK = 3


@dataclass(frozen=True)
class BuildSettings:
    root_directory: str = ""
    install_command: str = ""
    build_command: str = ""
    start_command: str = ""
    output_directory: str = ""
    provider: str = ""
    package_manager: str = ""
    # A path; "off": a Dockerfile is not used.
    dockerfile: str = ""
    # Zero: the platform's default.
    timeout_s: int = 0
    queue_timeout_s: int = 0


@dataclass(frozen=True)
class RunSettings:
    """Zero and empty: the platform's default."""

    replicas: int = 0
    cpu_millis: int = 0
    memory_bytes: int = 0
    health_path: str = ""
    ready_timeout_s: int = 0
    bake_s: int = 0
    no_automatic_rollback: bool = False


@dataclass(frozen=True)
class Repository:
    """What a project follows. `branch` empty: the repository's default branch."""

    url: str
    branch: str = ""


@dataclass(frozen=True)
class Project:
    id: str
    team_id: str
    name: str
    build: BuildSettings
    run: RunSettings
    repository: Repository | None
    # The data key of its variables, sealed under the master key.
    data_key: bytes = field(repr=False)
    configuration_version: int = 1
    environments: tuple[str, ...] = (PRODUCTION,)
    created_at: datetime | None = None

    @property
    def is_set_up(self) -> bool:
        """Whether anybody has chosen anything about it since it was made."""
        return self.configuration_version > 1 or self.repository is not None


@dataclass(frozen=True)
class Variable:
    """One version of one variable; `sealed` None: it was unset."""

    name: str
    version: int
    sealed: bytes | None = field(repr=False)
    changed_by: str = ""
    changed_at: datetime | None = None


@dataclass(frozen=True)
class ArchiveSource:
    digest: str
    object_key: str = ""
    size_bytes: int = 0


@dataclass(frozen=True)
class GitSource:
    """`ref` empty: the default branch. `commit` empty: whatever the ref points at when it is cloned."""

    url: str
    ref: str = ""
    commit: str = ""


Source = ArchiveSource | GitSource


@dataclass(frozen=True)
class Configuration:
    """A snapshot. `variables` is a serialized SealedVariables message."""

    version: int
    build: BuildSettings
    run: RunSettings
    variables: bytes = field(repr=False)


@dataclass(frozen=True)
class DeploymentRequest:
    """What was accepted, with every fact the later stages need."""

    deployment_id: str
    project_id: str
    project_name: str
    team_id: str
    environment: str
    hosts: tuple[str, ...]
    source: Source
    trigger: Trigger
    requested_by: str
    configuration: Configuration
    requested_at: datetime
    branch: str = ""
    commit_message: str = ""
    # It is built even where the same was built before.
    no_cache: bool = False


@dataclass(frozen=True)
class Delivery:
    """What a webhook delivery led to."""

    deployment_ids: tuple[str, ...] = ()
    ignored_because: str = ""


def check_label(text: str, *, field: str) -> str:
    """The text, when it is a DNS label (RFC 1035, 1123) that is no encoded international name. Raises InvalidInput."""
    if not _LABEL.fullmatch(text):
        raise InvalidInput(f"{field} {_shown(text)} is not a DNS label", field=field, remedy=f"write it with {_LABEL_RULE}")
    if text[2:4] == "--":
        raise InvalidInput(
            f"{field} {_shown(text)} has hyphens in the third and fourth place, which mark encoded names (RFC 5891)",
            field=field,
            remedy="take one hyphen out",
        )
    return text


def check_project_name(text: str) -> str:
    """The name, when a project may have it. Raises InvalidInput naming the rule that it breaks."""
    check_label(text, field="name")
    if _UUID.fullmatch(text):
        raise InvalidInput(f"name {_shown(text)} has the form of an id", field="name", remedy="choose a word")
    _refuse_reserved(text, field="name")
    return text


def host_label(project: str, environment: str) -> str:
    """The first label of an environment's host. Raises InvalidInput when both together are too long, or reserved."""
    check_label(environment, field="environment")
    if environment == PRODUCTION:
        return project
    label = f"{project}-{environment}"
    if len(label) > 63:
        raise InvalidInput(
            f"the host name {_shown(label)} is longer than the 63 characters of a DNS label",
            field="environment",
            remedy=f"an environment of this project has at most {62 - len(project)} characters",
        )
    _refuse_reserved(label, field="environment")
    return label


def _refuse_reserved(label: str, *, field: str) -> None:
    if label in RESERVED_LABELS:
        raise InvalidInput(f"the name {label} is reserved for the platform", field=field, remedy="choose another name")


def hosts(project: str, environment: str, base_domain: str) -> tuple[str, ...]:
    """The host names an environment answers on."""
    return (f"{host_label(project, environment)}.{base_domain}",)


def check_variable_name(name: str) -> str:
    """The name, when a variable may have it. Raises InvalidInput."""
    if not _VARIABLE.fullmatch(name) or len(name) > _LONGEST_VARIABLE_NAME:
        raise InvalidInput(
            f"variable name {_shown(name)} is not allowed: letters, digits and _, not beginning with a digit, at most 255",
            field="variables",
        )
    if name in _REFUSED_VARIABLES or name.startswith(_REFUSED_PREFIXES):
        raise InvalidInput(
            f"variable {name} is not yours to set: the platform sets it, or it changes which programs run", field="variables"
        )
    return name


def check_variables(changes: Mapping[str, str]) -> None:
    """Raises InvalidInput for the first name or value that is not allowed; never repeats a value."""
    for name, value in changes.items():
        check_variable_name(name)
        if "\0" in value:
            raise InvalidInput(f"the value of {name} contains a NUL, which no environment can hold", field="variables")
        if len(value.encode()) > MOST_VALUE_BYTES:
            raise InvalidInput(f"the value of {name} is longer than {MOST_VALUE_BYTES >> 10} KiB", field="variables")


def check_variable_set(values: Mapping[str, str]) -> None:
    """Raises InvalidInput when an environment's variables together are too many or too long."""
    if len(values) > MOST_VARIABLES:
        raise InvalidInput(f"an environment has at most {MOST_VARIABLES} variables", field="variables")
    size = sum(len(name) + len(value.encode()) for name, value in values.items())
    if size > MOST_VARIABLE_BYTES:
        raise InvalidInput(
            f"the variables of an environment together are longer than {MOST_VARIABLE_BYTES >> 10} KiB", field="variables"
        )


def check_set(project: Project, environment: str, names: Iterable[str], *, known: Container[str]) -> None:
    """Raises NotFound naming every variable that is not set."""
    missing = [name for name in dict.fromkeys(names) if name not in known]
    if missing:
        where = "" if environment == PRODUCTION else f" -e {environment}"
        raise NotFound(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set in {environment} of {project.name}",
            field="variables",
            remedy=f"see what is set: shipoff env list -p {project.name}{where}",
        )


def check_build(build: BuildSettings) -> BuildSettings:
    """The settings with their folders in normal form. Raises InvalidInput."""
    for name in ("install_command", "build_command", "start_command"):
        if any(_is_control(char) and char not in "\t\n" for char in getattr(build, name)):
            raise InvalidInput(f"build.{name} contains control characters", field=f"build.{name}")
    return replace(
        build,
        root_directory=_inner_folder(build.root_directory, field="build.root_directory"),
        output_directory=_inner_folder(build.output_directory, field="build.output_directory"),
        dockerfile=_inner_folder(build.dockerfile, field="build.dockerfile"),
    )


def _inner_folder(text: str, *, field: str) -> str:
    if not text:
        return ""
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\\" in text or any(map(_is_control, text)):
        raise InvalidInput(
            f"{field} has to be a folder inside the source", field=field, remedy="write it as apps/web: no leading /, no .."
        )
    return "" if str(path) == "." else str(path)


def check_run(run: RunSettings) -> RunSettings:
    """The settings. Raises InvalidInput; the contract checks the simple ranges."""
    if 0 < run.memory_bytes < LEAST_MEMORY_BYTES:
        raise InvalidInput(
            f"run.memory_bytes has to be at least {LEAST_MEMORY_BYTES} (16 MiB), or 0 for the default", field="run.memory_bytes"
        )
    if any(map(_is_control, run.health_path)):
        raise InvalidInput("run.health_path contains control characters", field="run.health_path")
    return run


@dataclass(frozen=True)
class Deadlines:
    """The longest that a project may have a deployment wait, build and take to become ready, in seconds."""

    queue_s: int = 86_400
    build_s: int = 7200
    ready_s: int = 3600


def check_deadlines(build: BuildSettings, run: RunSettings, most: Deadlines) -> None:
    """Raises InvalidInput for the first time limit that is beyond the platform's."""
    for name, value, limit_s in (
        ("build.queue_timeout_s", build.queue_timeout_s, most.queue_s),
        ("build.timeout_s", build.timeout_s, most.build_s),
        ("run.ready_timeout_s", run.ready_timeout_s, most.ready_s),
    ):
        if value > limit_s:
            raise InvalidInput(
                f"{name} is {value}, and this platform allows {limit_s} s at most",
                field=name,
                remedy=f"choose at most {limit_s}, or 0 for the platform's default",
            )


def next_versions(known: Iterable[Variable], names: Iterable[str]) -> dict[str, int]:
    """The version that a change of each of these names makes, given the newest version of every name ever set."""
    newest = {variable.name: variable.version for variable in known}
    return {name: newest.get(name, 0) + 1 for name in names}


def _is_control(char: str) -> bool:
    return ord(char) < 32 or ord(char) == 127


def _shown(text: str) -> str:
    """The text for a message: quoted, escaped, and cut."""
    return ascii(text if len(text) <= 80 else f"{text[:77]}...")
