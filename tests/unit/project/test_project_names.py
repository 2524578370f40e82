"""Names of projects, environments and variables; settings."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipoff.common.errors import InvalidInput
from shipoff.common.ids import new_id
from shipoff.project.domain import (
    MOST_VALUE_BYTES,
    MOST_VARIABLE_BYTES,
    MOST_VARIABLES,
    BuildSettings,
    RunSettings,
    Variable,
    check_build,
    check_project_name,
    check_run,
    check_variable_name,
    check_variable_set,
    check_variables,
    host_label,
    hosts,
    next_versions,
)


@pytest.mark.parametrize("name", ["a", "shop", "my-app-2", "9lives", "a" * 63, "blog", "test"])
def test_a_dns_label_can_be_a_project_name(name: str) -> None:
    assert check_project_name(name) == name


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("", "DNS label"),
        ("a" * 64, "DNS label"),
        ("a" * 300, "DNS label"),
        ("Shop", "DNS label"),
        ("-a", "DNS label"),
        ("a-", "DNS label"),
        ("a.b", "DNS label"),
        ("a_b", "DNS label"),
        ("shop\n", "DNS label"),
        ("$(id)", "DNS label"),
        ("../x", "DNS label"),
        ("naïve", "DNS label"),
        ("*", "DNS label"),
        ("xn--bcher-kva", "encoded names"),
        ("kube-system", "reserved"),
        ("www", "reserved"),
        ("api", "reserved"),
        ("localhost", "reserved"),
        ("shipoff", "reserved"),
        ("console", "reserved"),
        ("01890a5d-ac96-774b-bcce-b302099a8057", "form of an id"),
    ],
)
def test_a_refused_project_name_says_its_field_and_rule(name: str, rule: str) -> None:
    with pytest.raises(InvalidInput, match=rule) as raised:
        check_project_name(name)
    assert raised.value.field == "name"
    assert len(raised.value.message) < 250


def test_no_id_is_ever_a_name() -> None:
    with pytest.raises(InvalidInput):
        check_project_name(new_id())


@given(st.text(max_size=70))
def test_whatever_passes_as_a_name_is_a_label(text: str) -> None:
    try:
        name = check_project_name(text)
    except InvalidInput:
        return
    assert re.fullmatch(r"[a-z0-9-]{1,63}", name)
    assert name[0] != "-" != name[-1]


def test_production_answers_on_the_projects_name_and_others_add_theirs() -> None:
    assert hosts("shop", "production", "localhost") == ("shop.localhost",)
    assert hosts("shop", "staging", "apps.example.com") == ("shop-staging.apps.example.com",)


@pytest.mark.parametrize(
    ("project", "environment"), [("a" * 60, "dev"), ("kube", "system"), ("shop", "Staging"), ("shop", ""), ("shop", "a.b")]
)
def test_an_environment_whose_host_is_no_free_label_is_refused(project: str, environment: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        host_label(project, environment)
    assert raised.value.field == "environment"


@pytest.mark.parametrize(
    "name", ["A", "_x", "DATABASE_URL", "node_env", "NODE_OPTIONS", "PYTHONPATH", "HOST", "GIT_SHA", "A" * 255]
)
def test_ordinary_variables_are_taken(name: str) -> None:
    assert check_variable_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "1A",
        "A-B",
        "A B",
        "A=B",
        "A\nB",
        "A\n",
        "A\x00",
        "É",
        "A" * 256,
        "PATH",
        "PORT",
        "HOME",
        "ENV",
        "IFS",
        "BASH_ENV",
        "SHELLOPTS",
        "PYTHONHOME",
        "LD_PRELOAD",
        "LD_AUDIT",
        "LD_LIBRARY_PATH",
        "LD_ANYTHING",
        "DYLD_INSERT_LIBRARIES",
        "GIT_SSH_COMMAND",
        "GIT_CONFIG_COUNT",
        "SHIPOFF_MASTER_KEY",
        "BASH_FUNC_ls",
    ],
)
def test_variables_that_no_program_should_be_given_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        check_variable_name(name)
    assert raised.value.field == "variables"


def test_a_value_may_span_lines_and_may_not_hold_a_nul_or_be_endless() -> None:
    check_variables({"KEY": "-----BEGIN\nabc=\n-----END\n", "EMPTY": "", "LONG": "x" * MOST_VALUE_BYTES})
    for value in ["a\0b", "x" * (MOST_VALUE_BYTES + 1), "é" * (MOST_VALUE_BYTES // 2 + 1)]:
        with pytest.raises(InvalidInput) as raised:
            check_variables({"SECRET": value})
        assert value not in raised.value.message


def test_an_environment_holds_so_many_variables_and_so_many_bytes() -> None:
    check_variable_set({f"V{n}": "" for n in range(MOST_VARIABLES)})
    with pytest.raises(InvalidInput, match="at most"):
        check_variable_set({f"V{n}": "" for n in range(MOST_VARIABLES + 1)})
    with pytest.raises(InvalidInput, match="together"):
        check_variable_set({f"V{n}": "x" * (MOST_VARIABLE_BYTES // 4) for n in range(4)})


@pytest.mark.parametrize("folder", ["../../etc", "..", "a/../b", "/etc", "/", "a\\b", "a\nb", "a\0"])
@pytest.mark.parametrize("name", ["root_directory", "output_directory"])
def test_a_folder_outside_the_source_is_refused(folder: str, name: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        check_build(BuildSettings(**{name: folder}))
    assert raised.value.field == f"build.{name}"


@pytest.mark.parametrize(
    ("written", "kept"), [("", ""), (".", ""), ("./apps/web/", "apps/web"), ("..a", "..a"), ("a//b", "a/b")]
)
def test_folders_are_kept_in_normal_form(written: str, kept: str) -> None:
    assert check_build(BuildSettings(root_directory=written)).root_directory == kept


def test_commands_may_be_shell_but_hold_no_control_characters() -> None:
    build = BuildSettings(build_command="npm run build && echo $HOME;\nls")
    assert check_build(build) == build
    with pytest.raises(InvalidInput) as raised:
        check_build(BuildSettings(start_command="x\x1b[2J"))
    assert raised.value.field == "build.start_command"


def test_memory_is_the_default_or_enough_to_start_anything() -> None:
    assert check_run(RunSettings()) == RunSettings()
    with pytest.raises(InvalidInput) as raised:
        check_run(RunSettings(memory_bytes=1))
    assert raised.value.field == "run.memory_bytes"


def test_versions_count_on_from_what_was_ever_set() -> None:
    known = [Variable("A", 3, b"x"), Variable("B", 2, None, changed_at=datetime.now(UTC))]
    assert next_versions(known, ["A", "B", "C"]) == {"A": 4, "B": 3, "C": 1}
