"""A plan as a Dockerfile: which stages there are, what is in them, and that nothing a user writes becomes an instruction."""

from __future__ import annotations

import json
import posixpath
import re
import shlex
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipoff.builder.images.dockerfile import Bases, Facts, generate, operator_id
from shipoff.builder.images.quoting import Refused
from shipoff.builder.images.reading import instructions
from shipoff.contracts.types.v1 import types_pb2

BASES = Bases("build@sha256:" + "b" * 64, "run@sha256:" + "d" * 64)
EVERY = frozenset(
    {"FROM", "ENV", "ARG", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "ENTRYPOINT", "CMD"},
)
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40)
NASTY = st.sampled_from(
    [
        "\nUSER root",
        '"]\nRUN evil',
        "<<EOF",
        "$(id)",
        "${PATH}",
        "\\",
        "\\\n",
        "# x",
        "--mount=type=secret,id=X",
        "`id`",
        "\r\nARG X",
        "\u2028RUN x",
        "$PORT",
        "'",
        '"',
    ]
)
WORD = st.one_of(TEXT, NASTY, st.tuples(TEXT, NASTY, TEXT).map("".join))


def facts(**values: object) -> Facts:
    return Facts(bases=BASES, tenant="team", app="app", **{"caches": {"UV_CACHE_DIR": "uv"}, **values})  # type: ignore[arg-type]


def plan(*steps: types_pb2.PlanStep, **fields: object) -> types_pb2.Plan:
    web = types_pb2.PlanProcess(name="web", command=types_pb2.Command(argv=["serve"]))
    options = {"provider": "python", "mode": types_pb2.PLAN_MODE_SERVER, "app_root": ".", "processes": [web], **fields}
    return types_pb2.Plan(steps=steps, **options)  # type: ignore[arg-type]


def step(name: str, *argv: str, **fields: object) -> types_pb2.PlanStep:
    options = {"network": True, "secrets": ["*"], **fields}
    return types_pb2.PlanStep(name=name, commands=[types_pb2.Command(argv=argv)], **options)  # type: ignore[arg-type]


def stage(text: str, name: str) -> list[str]:
    """The lines of a stage."""
    block = next(block for block in text.split("\n\n") if f" AS {name}\n" in block)
    return block.strip().splitlines()


@given(command=st.lists(WORD, min_size=1, max_size=4), start=st.lists(WORD, min_size=1, max_size=3), value=WORD)
def test_no_argument_and_no_value_of_the_environment_adds_an_instruction(command, start, value):
    web = types_pb2.PlanProcess(name="web", command=types_pb2.Command(argv=start))
    made = plan(step("install", *command, env={"NAME": value}), processes=[web])
    found = instructions(generate(made, facts(variables={"TOKEN": "f"})).text)
    plain = instructions(generate(plan(step("install", "x", env={"NAME": "y"})), facts(variables={"TOKEN": "f"})).text)
    assert [one.name for one in found] == [one.name for one in plain]
    assert [one.flags for one in found] == [one.flags for one in plain]
    runs = [json.loads(one.rest) for one in found if one.name == "RUN"]
    assert runs[0] == ["/usr/bin/env", f"NAME={value}", "SHIPOFF_VARIABLES=f", *command]


@given(root=WORD, inputs=st.lists(WORD, max_size=3), excluded=st.lists(WORD, max_size=2))
def test_no_path_adds_an_instruction_or_reaches_beyond_the_source(root, inputs, excluded):
    artifacts = types_pb2.PlanArtifacts(include=["."], exclude=excluded)
    made = plan(step("install", "x", inputs=inputs), app_root=root, artifacts=artifacts)
    try:
        text = generate(made, facts()).text
    except Refused:
        return
    found = instructions(text)
    assert {one.name for one in found} <= EVERY
    for one in found:
        if one.name == "WORKDIR":
            assert one.rest == "/app" or one.rest.startswith("/app/")
            assert "/../" not in f"{one.rest}/"
        if one.name == "COPY":
            assert all(flag in ("from", "chown") for flag, _ in one.flags)
    assert len([one for one in found if one.name == "FROM"]) == len(
        [one for one in text.splitlines() if one.startswith("FROM ")]
    )


@settings(max_examples=40)
@given(words=st.lists(WORD, min_size=1, max_size=3))
def test_an_argument_of_the_start_command_arrives_as_it_is_written_but_for_port_and_host(words):
    web = types_pb2.PlanProcess(
        name="web", command=types_pb2.Command(argv=["printf", r"%s\0", *words, "$PORT", "${HOST}:x", "$HOSTS"])
    )
    text = generate(plan(processes=[web]), facts()).text
    command = json.loads(next(one.rest for one in instructions(text) if one.name == "CMD"))
    environment = {"PORT": "81", "HOST": "h", "HOSTS": "wrong", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    filled = [re.sub(r"\$PORT(?!\w)|\$\{PORT\}", "81", word, flags=re.ASCII) for word in words]
    assert done.stdout.decode().split("\0")[:-1] == [*filled, "81", "h:x", "$HOSTS"]


@given(root=st.one_of(WORD, st.lists(st.sampled_from(["a b", "it's", 'a "b"', "$x", "#1", "c"]), min_size=1).map("/".join)))
def test_a_folder_of_any_name_is_one_word_and_is_cleaned_where_it_is(root):
    try:
        server = generate(plan(app_root=root), facts()).text
    except Refused:
        return
    pages = generate(plan(step("build", "x"), app_root=root, mode=types_pb2.PLAN_MODE_STATIC, processes=[]), facts()).text
    folder = posixpath.normpath(posixpath.join("/app", root))
    path = next(one.rest for one in instructions(server) if one.rest.startswith("PATH="))
    assert shlex.split(path) == [f"PATH={folder}/.venv/bin:{folder}/node_modules/.bin:$PATH"]
    assert all(shlex.split(one.rest) == [folder] for one in instructions(server) if one.name == "WORKDIR")
    removed = next(json.loads(one.rest) for one in instructions(pages) if one.rest.startswith('["rm"'))
    assert {f"{folder}/node_modules", f"{folder}/.venv"} <= set(removed)


def test_a_start_command_without_placeholders_runs_without_a_shell_under_the_init_as_nobody():
    lines = stage(generate(plan(), facts()).text, "runtime")
    assert 'CMD ["serve"]' in lines
    assert 'ENTRYPOINT ["/usr/local/bin/shipoff-init", "--"]' in lines
    assert lines.index("USER 10001:10001") > max(n for n, line in enumerate(lines) if line.startswith("COPY"))


def test_dependencies_see_manifests_only_and_lie_below_the_source():
    made = generate(plan(step("install", "uv", "sync", inputs=["uv.lock", "pyproject.toml", "requirements/base.txt"])), facts())
    deps = stage(made.text, "deps")
    assert [line for line in deps if line.startswith("COPY")] == [
        'COPY ["pyproject.toml", "uv.lock", "/app/"]',
        'COPY ["requirements/base.txt", "/app/requirements/"]',
    ]
    copies = [line for line in stage(made.text, "runtime") if line.startswith("COPY")]
    assert copies[1:] == ["COPY --from=deps --chown=10001:10001 /app /app", 'COPY --chown=10001:10001 [".", "/app/"]']


def test_a_name_that_copy_would_read_as_a_pattern_makes_the_step_see_everything():
    made = generate(plan(step("install", "x", inputs=["a[b].txt", "$HOME"])), facts())
    assert [line for line in stage(made.text, "deps") if line.startswith("COPY")] == ['COPY [".", "/app/"]']


def test_the_same_secret_is_mounted_where_a_step_names_it_and_nowhere_else():
    made = generate(
        plan(step("install", "a", secrets=[]), step("build", "b", secrets=["TOKEN"])),
        facts(variables={"TOKEN": "f1", "OTHER": "f2"}),
    )
    assert "secret" not in " ".join(stage(made.text, "deps"))
    build = " ".join(stage(made.text, "build"))
    assert "--mount=type=secret,id=TOKEN,env=TOKEN" in build
    assert "SHIPOFF_VARIABLES=f1" in build
    assert "OTHER" not in made.text
    assert not any(one.name == "ARG" and one.rest != "TARGETARCH" for one in instructions(made.text))


def test_a_variable_of_the_project_s_does_not_move_programs_or_caches():
    made = generate(plan(step("install", "a", caches=["uv"])), facts(variables={"PATH": "f", "UV_CACHE_DIR": "f", "OK": "f"}))
    assert "id=PATH" not in made.text
    assert "id=UV_CACHE_DIR" not in made.text
    assert "id=OK,env=OK" in made.text


def test_the_operator_s_settings_are_secrets_that_no_variable_can_stand_for():
    made = generate(plan(step("install", "a")), facts(operator=["PIP_INDEX_URL"], operator_files=["PIP_CERT"]))
    assert f"--mount=type=secret,id={operator_id('PIP_INDEX_URL')},env=PIP_INDEX_URL" in made.text
    assert f"--mount=type=secret,id={operator_id('PIP_CERT')},target=/run/shipoff/PIP_CERT,mode=0444" in made.text
    assert 'ENV PIP_CERT="/run/shipoff/PIP_CERT"' in made.text
    assert "PIP" not in "\n".join(stage(made.text, "runtime"))


def test_caches_belong_to_tenant_app_tool_and_architecture():
    made = generate(plan(step("install", "a", caches=["uv", "unknown"])), facts())
    assert "--mount=type=cache,id=team/app/uv/$TARGETARCH,target=/var/cache/shipoff/uv,sharing=locked" in made.text
    assert "ARG TARGETARCH" in stage(made.text, "deps")
    assert "unknown" not in made.text


def test_a_step_without_network_has_none():
    assert "RUN --network=none [" in generate(plan(step("build", "a", network=False, secrets=[])), facts()).text


def test_development_dependencies_are_left_out():
    manager = types_pb2.PackageManager(name="npm")
    made = generate(plan(step("install", "npm", "ci"), provider="node", package_manager=manager), facts())
    assert 'RUN ["npm", "prune", "--omit=dev", "--ignore-scripts"]' in stage(made.text, "production")
    assert "COPY --from=production --chown=10001:10001 /app /app" in made.text


def test_what_the_plan_leaves_out_is_removed_after_the_build():
    artifacts = types_pb2.PlanArtifacts(include=["."], exclude=[".git", ".next/cache"])
    made = generate(plan(step("build", "x"), artifacts=artifacts), facts())
    assert 'RUN ["rm", "-rf", "--", "/app/.next/cache"]' in stage(made.text, "production")
    assert ".git" in made.ignore.splitlines()


def pages(root: str, output: str) -> list[str]:
    """What the stage `pages` runs last, for an app in this folder."""
    options = {"mode": types_pb2.PLAN_MODE_SPA, "app_root": root, "output_dir": output, "processes": []}
    made = generate(plan(step("build", "x"), **options), facts())
    assert made.target == "files"
    assert stage(made.text, "files") == ["FROM scratch AS files", "COPY --from=pages /shipoff/output /"]
    argv: list[str] = json.loads(stage(made.text, "pages")[-1].removeprefix("RUN "))
    return argv


def test_pages_leave_no_image_but_the_output_directory_in_its_place():
    assert pages(".", "dist")[-4:] == ["/app", "/shipoff/output", "/app/dist", "/shipoff/output/dist"]
    assert pages("apps/a b", "./out/")[-4:] == [
        *("/app/apps/a b", "/shipoff/output/apps/a b"),
        *("/app/apps/a b/out", "/shipoff/output/apps/a b/out"),
    ]
    assert pages("web", "")[-2:] == ["/app/web", "/shipoff/output/web"]


@pytest.mark.parametrize(
    ("output", "taken"),
    [
        ("dist", {"dist/index.html": "a page", "dist/a/b.js": "b", "dist/last": "→ index.html"}),
        ("link", {"link/index.html": "a page", "link/a/b.js": "b", "link/last": "→ index.html"}),
        # No page in it: where others are is known, not what is in them.
        ("missing", {"dist/index.html": "", "docs/x y/index.html": ""}),
        ("outside", {"dist/index.html": "", "docs/x y/index.html": ""}),
        ("docs", {"docs/x y/index.html": "", "docs/notes": "n", "dist/index.html": ""}),
    ],
)
def test_nothing_is_taken_of_a_build_of_pages_but_its_output_directory(tmp_path, output, taken):
    app, kept = tmp_path / "app", tmp_path / "kept"
    contents = {
        "dist/index.html": "a page", "dist/a/b.js": "b", "docs/x y/index.html": "", "docs/notes": "n", "secret": "s",
        "node_modules/x/index.html": "no",
    }  # fmt: skip
    for name, content in contents.items():
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).write_text(content)
    (app / "dist" / "last").symlink_to("index.html")
    (app / "link").symlink_to("dist")
    (app / "outside").symlink_to("/etc")
    subprocess.run([*pages("", output)[:-4], app, kept, app / output, kept / output], check=True)
    left = [path for path in kept.rglob("*") if path.is_symlink() or not path.is_dir()]
    assert {
        str(path.relative_to(kept)): f"→ {path.readlink()}" if path.is_symlink() else path.read_text() for path in left
    } == taken


def test_buildkit_s_numbers_of_commands_are_known():
    made = generate(
        plan(step("install", "uv", "sync", inputs=["uv.lock"]), step("build", "/bin/sh", "-c", "make all")), facts()
    )
    # deps: COPY, WORKDIR, RUN; build: COPY, WORKDIR, RUN.
    assert made.shown == {("deps", 3): "uv sync", ("build", 3): "make all"}
    assert made.steps == {"deps": "install", "build": "build"}


@pytest.mark.parametrize("root", ["a\nUSER root", "../up", "/etc", "a\\", " a", "a\tb"])
def test_a_folder_that_cannot_be_written_safely_is_refused(root):
    with pytest.raises(Refused, match="the app's folder"):
        generate(plan(app_root=root), facts())


def test_a_plan_that_starts_nothing_is_refused():
    with pytest.raises(Refused, match="start command"):
        generate(plan(processes=[]), facts())
