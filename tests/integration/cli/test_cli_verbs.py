"""The verbs against a stand-in for the platform: what they send, what they print, and how they end."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from integration.cli.stub_platform import SETUP_TOKEN, TOKEN, Platform, served
from typer.testing import CliRunner, Result

from shipoff.cli import credentials, follow
from shipoff.cli.app import app
from shipoff.cli.client import Api


@pytest.fixture(scope="module")
def stub() -> Iterator[Platform]:
    with served(Platform()) as platform:
        yield platform


@pytest.fixture
def platform(stub: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """The stand-in, a person who is signed in to it, and an app's folder as the current one."""
    folder = tmp_path / "my-app"
    folder.mkdir()
    (folder / "app.py").write_text("print('hello')\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    stub.reset()
    monkeypatch.setenv("SHIPOFF_URL", stub.url)
    monkeypatch.setenv("SHIPOFF_TOKEN", TOKEN)
    return stub


def run(*arguments: str, code: int = 0, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(app, list(arguments), input=stdin)
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    return result


def lines(result: Result) -> list[dict[str, Any]]:
    """Standard output as JSON lines; fails when anything else is on it."""
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_deploy_creates_the_project_uploads_and_ends_with_the_address(platform: Platform) -> None:
    result = run("deploy")
    assert list(platform.projects) == ["my-app"]
    [content] = platform.sources.values()
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert archive.getnames() == ["app.py"]
    assert len(platform.keys) == 1
    output = result.stdout
    passed = [
        "Created project my-app",
        "Uploaded",
        "Deployment #1 of my-app to production",
        "queued took 1.0 s → building",
        "▸ install: pip",
    ]
    passed += ["building took 1.0 s → provisioning", "app: listening", "provisioning took 1.0 s → production"]
    passed += [f"Live in 3.0 s: http://my-app.localhost:{platform.port}"]
    positions = [output.index(part) for part in passed]
    assert positions == sorted(positions)


def test_a_first_deployment_that_is_refused_leaves_no_project(platform: Platform) -> None:
    for source in ((), ("--git", "https://h.example/team/my-app.git")):
        result = run("deploy", "-e", "Bad", *source, code=2)
        assert "removed again" in result.stderr
        assert platform.projects == {}
    told = [json.loads(line) for line in run("deploy", "-e", "Bad", "--json", code=2).stderr.splitlines()]
    assert [list(each) for each in told] == [["note"], ["error"]], "nothing but JSON there either"


def test_a_refused_deployment_leaves_a_project_that_was_there_or_that_another_has_deployed(platform: Platform) -> None:
    run("init")
    run("deploy", "-e", "Bad", code=2)
    run("destroy", "--yes")
    platform.meanwhile.append(lambda: platform.make("my-app", "production", {}))
    assert "removed again" not in run("deploy", "-e", "Bad", code=2).stderr
    assert list(platform.projects) == ["my-app"]


def test_of_two_first_deployments_the_accepted_one_survives_the_refused_one(platform: Platform) -> None:
    """The refused one had made the project, and takes it back just before the other's request comes."""
    platform.add_project("my-app")
    platform.meanwhile.append(platform.projects.clear)
    assert "Live" in run("deploy").stdout
    assert list(platform.projects) == ["my-app"]


def test_deploying_the_same_folder_again_uploads_the_same_bytes(platform: Platform) -> None:
    run("deploy")
    Path("app.py").touch()
    run("deploy")
    assert len(platform.sources) == 1
    assert len(set(platform.keys)) == 2


def test_deploy_json_is_json_lines_and_nothing_else(platform: Platform) -> None:
    messages = lines(run("deploy", "--json"))
    assert [m["to"] for m in messages if m["type"] == "state"] == ["building", "provisioning", "production"]
    assert [m["text"] for m in messages if m["type"] == "log"] == ["▸ install: pip", "done", "listening"]
    assert messages[-1]["type"] == "result"
    assert messages[-1]["ok"] is True
    assert messages[-1]["url"] == f"http://my-app.localhost:{platform.port}"


def test_a_failed_build_ends_with_the_reason_and_the_failed_steps_lines(platform: Platform) -> None:
    noise = [("line", "build", f"early {number}") for number in range(30)]
    step = [("line", "build", "▸ build: npm run build"), *[("line", "build", f"late {number}") for number in range(5)]]
    reason = "npm run build exited with 1"
    platform.script = [("state", "building", ""), *noise, *step, ("line", "build", f"✗ {reason}"), ("state", "failed", reason)]
    result = run("deploy", code=1)
    tail = result.stdout.split("The last lines that matter:\n")[1]
    assert tail.splitlines() == ["  ▸ build: npm run build", *[f"  late {number}" for number in range(5)]], "the reason once"
    assert "deployment #1 failed: npm run build exited with 1" in result.stderr
    assert "shipoff logs --build --deployment 1" in result.stderr
    final = lines(run("deploy", "--json", code=1))[-1]
    assert (final["ok"], final["reason"]) == (False, "npm run build exited with 1")
    assert final["last_lines"][0] == "▸ build: npm run build"


def test_an_app_that_never_becomes_ready_ends_with_its_own_last_lines(platform: Platform) -> None:
    app_lines = [("line", "app", f"trying {number}") for number in range(40)]
    platform.script = [("state", "building", ""), ("line", "build", "built"), ("state", "provisioning", ""), *app_lines]
    platform.script.append(("state", "failed", "never became ready"))
    tail = run("deploy", code=1).stdout.split("The last lines that matter:\n")[1]
    assert tail.splitlines() == [f"  trying {number}" for number in range(20, 40)]


def test_a_superseded_deployment_did_not_go_live(platform: Platform) -> None:
    platform.script = [("state", "inactive", "superseded by #2")]
    assert "did not go live: superseded by #2" in run("deploy", code=1).stderr


def test_what_was_live_and_is_replaced_meanwhile_is_a_success(platform: Platform) -> None:
    platform.script = [("state", "production", ""), ("state", "inactive", "replaced")]
    platform.refuses_sockets = True
    run("deploy")


def test_a_broken_socket_is_opened_again_where_it_was(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_PAUSES_S", (0.0,))
    platform.script = [("line", "build", "one"), ("drop",), ("line", "build", "two"), ("drop",), ("state", "production", "")]
    messages = lines(run("deploy", "--json"))
    assert [m["text"] for m in messages if m["type"] == "log"] == ["one", "two"]
    assert [m["to"] for m in messages if m["type"] == "state"] == ["production"]
    assert platform.sockets >= 2
    assert platform.socket_after[:2] == [0, 2], "asking in between brought the second line"


def test_without_websockets_it_asks_again_and_again(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_PAUSES_S", (0.0,))
    platform.refuses_sockets = True
    messages = lines(run("deploy", "--json"))
    assert [m["to"] for m in messages if m["type"] == "state"] == ["building", "provisioning", "production"]
    assert [m["text"] for m in messages if m["type"] == "log"] == ["▸ install: pip", "done", "listening"]


def test_an_outage_while_waiting_is_waited_out(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shipoff.cli.client._PAUSES_S", (0.0, 0.0))
    platform.refuses_sockets = True
    platform.add_project("my-app")
    deployment = platform.make("my-app", "production", {}, script=[("line", "build", "one"), ("state", "production", "")])
    platform.away = 7
    wanted = follow.Wanted(deployment.data["id"], until_rest=True)
    with Api(credentials.Credentials(platform.url, TOKEN)) as api:
        messages = list(follow.follow(api, wanted, pause=lambda _: None))
    assert platform.away == 0
    assert messages[-1] == {"type": "end"}


def test_the_api_below_a_localhost_name_needs_no_resolver(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIPOFF_URL", f"http://api.localhost:{platform.port}")
    run("deploy")
    assert platform.sockets == 1


def test_detach_does_not_wait(platform: Platform) -> None:
    [message] = lines(run("deploy", "--detach", "--json"))
    assert (message["type"], message["deployment"]["state"]) == ("accepted", "queued")
    assert platform.sockets == 0


def test_deploy_of_a_repository(platform: Platform) -> None:
    run("deploy", "--git", "https://h.example/team/Site.git", "--ref", "main", "-e", "staging")
    assert list(platform.projects) == ["site"]
    assert platform.bodies[-1][2] == {
        "environment": "staging",
        "source": {"git": {"url": "https://h.example/team/Site.git", "ref": "main"}},
    }


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("frob",), ""),
        (("deploy", "--nope"), "--nope"),
        (("scale",), "N"),
        (("scale", "many"), "N"),
        (("scale", "101"), "N"),
        (("logs", "-n"), "-n"),
        (("env", "set"), "NAME=VALUE"),
        (("destroy", "-p", "my-app"), "--yes"),
    ],
)
def test_wrong_usage_is_json_where_that_is_asked_for(platform: Platform, arguments: tuple[str, ...], field: str) -> None:
    platform.add_project("my-app")
    result = run(*arguments, "--json", code=2) if arguments != ("logs", "-n") else run("logs", "--json", "-n", code=2)
    error = json.loads(result.stderr)["error"]
    assert (result.stdout, error["field"], error["exit_code"]) == ("", field, 2)
    assert error["message"]


def test_json_behind_the_end_of_options_is_none(platform: Platform) -> None:
    assert run("deploy", "--nope", "--", "--json", code=2).stderr.startswith("Error: no such option: --nope")


@pytest.mark.parametrize(
    "arguments",
    [("deploy", ".", "--git", "x"), ("deploy", "--ref", "x"), ("deploy", "nowhere"), ("deploy", "--nope"), ("scale", "0")],
)
def test_wrong_usage_is_2(platform: Platform, arguments: tuple[str, ...]) -> None:
    run(*arguments, code=2)


def test_a_refusal_names_the_field_and_the_remedy(platform: Platform) -> None:
    result = run("deploy", "--project", "taken", code=1)
    assert "the name taken is taken (name)" not in result.stdout
    assert "the name taken is taken" in result.stderr
    assert "choose another" in result.stderr
    error = json.loads(run("deploy", "--project", "taken", "--json", code=1).stderr)["error"]
    assert error == {"message": "the name taken is taken", "field": "--project", "remedy": "choose another", "exit_code": 1}


def test_an_interruption_says_that_it_goes_on(platform: Platform) -> None:
    platform.script = [("state", "building", ""), ("line", "build", "working"), ("hang",)]
    program = [sys.executable, "-c", "from shipoff.cli.app import app; app()", "deploy"]
    # Where the tests run in the background of a shell, SIGINT is ignored, and children inherit that.
    heard: dict[str, Any] = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(program, **pipes, text=True, env=dict(os.environ), **heard) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        for line in child.stdout:
            if "working" in line:
                child.send_signal(signal.SIGINT)
                break
        message = child.stderr.read()
        assert child.wait(10) == 130
    assert "deployment #1 goes on" in message
    assert "shipoff cancel 1" in message


def test_not_signed_in_is_3(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHIPOFF_TOKEN")
    assert "shipoff login" in run("list", code=3).stderr
    monkeypatch.setenv("SHIPOFF_TOKEN", "wrong")
    told = run("list", code=3).stderr
    assert "it comes from the environment variable SHIPOFF_TOKEN" in told
    assert "unset it and sign in: shipoff login" in told


def test_an_unknown_project_is_4(platform: Platform) -> None:
    assert "no project nothing" in run("status", "-p", "nothing", code=4).stderr


def test_a_platform_that_is_not_there_is_5(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIPOFF_URL", "http://localhost:1")
    for with_token in (True, False):
        if not with_token:
            monkeypatch.delenv("SHIPOFF_TOKEN")
        result = run("list", code=5)
        assert "nothing answers at http://localhost:1 (from SHIPOFF_URL)" in result.stderr
        assert "make up" in result.stderr
    monkeypatch.setenv("SHIPOFF_URL", "foo")
    assert "correct SHIPOFF_URL" in run("list", code=5).stderr


@pytest.mark.parametrize("url", ["ftp://x", "http:///x", "http://u:p@localhost", "http://localhost:nine", "http://local host"])
def test_a_wrong_url_is_a_usage_error(platform: Platform, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("SHIPOFF_URL", url)
    assert "SHIPOFF_URL" in run("list", code=2).stderr


def test_a_token_that_cannot_be_one_is_not_sent(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIPOFF_TOKEN", "caf\u00e9")
    assert "shipoff login" in run("list", code=3).stderr


def test_a_platform_that_is_just_starting_is_asked_again(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shipoff.cli.client._PAUSES_S", (0.0, 0.0))
    platform.away = 2
    run("list")


def test_login_keeps_a_token_that_works(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHIPOFF_TOKEN")
    run("login", "--token", "wrong", code=3)
    assert credentials.load().token == ""
    assert "--token" in run("login", stdin="", code=2).stderr
    assert "ann@example.com" in run("login", stdin=f"{TOKEN}\n").stdout
    assert credentials.load().token == TOKEN
    assert TOKEN not in run("whoami").stdout


def test_login_makes_the_first_owner(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHIPOFF_TOKEN")
    run("login", "--setup-token", "wrong", "--email", "ann@example.com", code=3)
    run("login", "--setup-token", SETUP_TOKEN, "--email", "ann@example.com")
    assert platform.bodies[-1][2] == {"setup_token": SETUP_TOKEN, "email": "ann@example.com", "name": "ann", "team": "main"}
    assert credentials.load().token == TOKEN


def test_plan_shows_the_plan_and_why_and_builds_nothing(platform: Platform) -> None:
    Path("requirements.txt").write_text("flask\ngunicorn\n")
    Path("app.py").write_text("from flask import Flask\napp = Flask(__name__)\n")
    shown = run("plan").stdout
    assert "flask (python), server" in shown
    assert "runs web: .venv/bin/python -m gunicorn app:app" in shown
    assert "app.py: app: flask (WSGI) application app:app" in shown
    assert platform.projects == {}
    plan = json.loads(run("plan", "--json").stdout)
    assert (plan["schema"], plan["framework"], plan["mode"]) == (2, "flask", "server")
    assert plan["source_digest"].startswith("sha256:")


def test_plan_sends_what_an_upload_would_hold_and_no_secret(platform: Platform) -> None:
    Path(".gitignore").write_text("ignored.py\n")
    Path("ignored.py").write_text("x")
    Path(".env").write_text("SECRET=1")
    Path("logo.png").write_bytes(b"\x89PNG\xff")
    run("plan", "--json")
    sent = platform.bodies[-1][2]
    assert sent["paths"] == [".env", ".gitignore", "app.py", "logo.png"]
    assert sent["contents"] == {"app.py": "print('hello')\n"}


def test_plan_asks_with_the_choices_where_there_are_several_apps(platform: Platform) -> None:
    Path("package.json").write_text('{"workspaces": ["apps/*"]}')
    Path("app.py").unlink()
    for name in ("shop", "admin"):
        Path("apps", name).mkdir(parents=True)
        Path("apps", name, "package.json").write_text(json.dumps({"name": name, "devDependencies": {"vite": "8"}}))
    asked = run("plan", code=1).stderr
    assert "The repository holds 2 apps" in asked
    assert "build.root_directory" in asked
    assert "apps/admin, apps/shop" in asked
    assert "vite (node), spa" in run("plan", "--root", "apps/shop").stdout


def test_init_writes_the_projects_name(platform: Platform) -> None:
    run("init", "--project", "renamed")
    assert Path("shipoff.toml").read_text() == 'project = "renamed"\n'
    assert list(platform.projects) == ["renamed"]
    run("deploy")
    assert list(platform.projects) == ["renamed"]


def test_a_project_is_made_in_the_team_that_is_named(platform: Platform) -> None:
    assert "you are in no team nope; yours: main" in run("init", "--team", "nope", code=2).stderr
    assert platform.projects == {}
    run("init", "--team", "main")
    assert platform.bodies[-1][2] == {"name": "my-app", "team_id": "t"}


def test_list_walks_every_page(platform: Platform) -> None:
    for name in ("a", "b", "c"):
        platform.add_project(name)
    assert [item["name"] for item in lines(run("list", "--json"))[0]["items"]] == ["a", "b", "c"]
    assert f"http://b.localhost:{platform.port}" in run("list").stdout


def test_status_and_open(platform: Platform) -> None:
    run("deploy")
    output = run("status").stdout
    assert "live      #1 production" in output
    assert "web.0" in output
    assert run("open").stdout == f"http://my-app.localhost:{platform.port}\n"
    assert lines(run("status", "--json"))[0]["live"]["number"] == 1
    assert "#1" in run("list", "--deployments").stdout


def test_opening_what_is_not_live_says_how_far_it_is(platform: Platform) -> None:
    platform.add_project("my-app")
    told = run("open", code=4)
    assert (told.stdout, "nothing of my-app is live in production" in told.stderr) == ("", True)
    assert "deploy it: shipoff deploy\n" in told.stderr
    platform.script = [("state", "failed", "it broke")]
    run("deploy", code=1)
    told = run("open", code=4)
    assert "the newest deployment is #1 failed" in told.stderr
    assert "it broke" in told.stderr


def test_hints_can_be_pasted_from_where_they_are_read(platform: Platform) -> None:
    assert "Packed 1 file (" in run("deploy").stdout
    assert "shipoff logs --build -f --deployment 0000-2\n" in run("deploy", "-d").stdout
    other = run("deploy", "-d", "-p", "other-app", "-e", "staging").stdout
    assert "shipoff logs --build -f --deployment 0000-3 -p other-app\n" in other
    told = run("env", "set", "A=1", "-p", "other-app", "-e", "staging").stdout
    assert "shipoff redeploy --current-env -p other-app -e staging" in told
    platform.add_project("empty")
    assert "shipoff deploy -p empty" in run("logs", "-p", "empty", code=4).stderr
    assert "shipoff list --deployments -p empty" in run("redeploy", "7", "-p", "empty", code=4).stderr
    assert "shipoff destroy --yes -p empty" in run("destroy", "-p", "empty", code=2).stderr


def test_variables_come_and_go(platform: Platform) -> None:
    platform.add_project("my-app")
    run("env", "set", "A=1", "B=x=y")
    run("env", "import", "-", stdin="export C='multi\nline'\n")
    Path("prod.env").write_text('D="4" # four\n')
    run("env", "import", "prod.env")
    assert platform.variables == {"A": "1", "B": "x=y", "C": "multi\nline", "D": "4"}
    assert "x=y" not in run("env", "list").stdout
    assert "multi\\nline" in run("env", "list", "--reveal").stdout
    run("env", "unset", "A")
    assert "A" not in platform.variables
    assert "A is not set" in run("env", "unset", "B", "A", code=4).stderr
    assert "B" in platform.variables, "all or none"
    assert lines(run("env", "list", "--json"))[0]["items"][0] == {
        "name": "B", "value": None, "version": 1, "changed_at": "2026-01-01T00:00:00+00:00", "changed_by": "u",
    }  # fmt: skip


def test_a_wrong_assignment_does_not_show_the_secret(platform: Platform) -> None:
    for arguments in (("env", "set", "hunter2"), ("env", "import", "-")):
        result = run(*arguments, code=2, stdin="hunter2")
        assert "hunter2" not in result.stdout + result.stderr


def test_logs_of_the_app_and_of_the_build(platform: Platform) -> None:
    run("deploy")
    assert run("logs").stdout == "listening\n"
    assert run("logs", "--build").stdout == "▸ install: pip\ndone\n"
    assert run("logs", "--build", "-n", "1").stdout == "done\n"
    assert [entry["text"] for entry in lines(run("logs", "--build", "--json", "--deployment", "1"))] == [
        "▸ install: pip",
        "done",
    ]
    run("logs", "--deployment", "9", code=4)


def test_the_build_log_of_a_redeploy_is_that_of_the_build_it_came_from(platform: Platform) -> None:
    run("deploy")
    for _ in range(2):
        run("redeploy")
    platform.deployments["0000-2"].data["origin_deployment_id"] = "0000-1"
    platform.deployments["0000-3"].data["origin_deployment_id"] = "0000-2"
    result = run("logs", "--build")
    assert result.stdout == "▸ install: pip\ndone\n"
    assert "deployment #3 runs what deployment #1 built" in result.stderr


def test_an_empty_log_says_why(platform: Platform) -> None:
    platform.script = [("line", "build", "built"), ("state", "production", "")]
    run("deploy")
    assert "has written nothing yet" in run("logs").stderr
    platform.deployments["0000-1"].data["plan"] = {"mode": "static"}
    result = run("logs")
    assert result.stdout == ""
    assert "a static site has no app log; its build's: shipoff logs --build" in result.stderr
    platform.script = [("state", "inactive", "cancelled by ann@example.com")]
    run("deploy", "-p", "other", code=1)
    assert "never started, so it has no app log; it is inactive: cancelled by ann" in run("logs", "-p", "other").stderr


def test_followed_logs_go_over_to_the_deployment_that_replaced_it(platform: Platform) -> None:
    platform.add_project("my-app")
    script = [("line", "app", "old app"), ("line", "build", "not asked for"), ("state", "inactive", "replaced")]
    old = platform.make("my-app", "production", {}, script=script, state="production")
    platform.make("my-app", "production", {}, script=[("line", "app", "new app"), ("state", "failed", "")], state="production")
    old.data["number"], platform.deployments["0000-2"].data["number"] = 1, 2
    newer = platform.deployments.pop("0000-2")
    platform.deployments = {"0000-2": newer, **platform.deployments}
    result = run("logs", "-f")
    assert result.stdout == "old app\nnew app\n"
    assert "deployment #2 serves now" in result.stderr


def test_a_hostile_log_line_cannot_steer_the_terminal(platform: Platform) -> None:
    platform.script = [("line", "build", "\x1b]0;owned\x07\x1b[2Jplain\x1b[31m red"), ("state", "production", "")]
    output = run("deploy").stdout
    assert "plain red\n" in output
    assert "\x1b" not in output
    assert "\x1b" not in run("deploy", "--json").stdout


def test_releases(platform: Platform) -> None:
    run("deploy")
    run("deploy", "-e", "staging")
    run("rollback", "--to", "#1")
    assert platform.bodies[-1] == ("POST", "/v1/projects/my-app/rollback", {"environment": "production", "to": 1})
    run("redeploy", "--current-env")
    assert platform.bodies[-1] == ("POST", "/v1/deployments/0000-3/redeploy", {"current_configuration": True})
    run("promote", "--from", "staging")
    assert platform.bodies[-1] == ("POST", "/v1/deployments/0000-2/promote", {"environment": "production"})
    run("promote", code=2)
    run("promote", "2", "--to", "preview", "--detach")
    run("cancel", "1", code=1)


def test_cancel_stops_what_is_under_way(platform: Platform) -> None:
    platform.script = []
    run("deploy", "--detach")
    assert "Deployment #1 is cancelled" in run("cancel").stdout
    assert "no deployment" in run("cancel", code=4).stderr


def test_scale_queue_hooks_tokens_members(platform: Platform) -> None:
    platform.add_project("my-app")
    run("scale", "3")
    assert platform.bodies[-1][2] == {"environment": "production", "replicas": 3}
    assert "replaced one after the other" in run("restart").stdout
    assert "shipoff resume" in run("pause").stdout
    assert json.loads(run("resume", "-e", "staging", "--json").stdout)["environment"] == "staging"
    assert platform.bodies[-1][2] == {"environment": "staging"}
    assert "app #4" in run("queue").stdout
    assert "hook-secret" in run("hooks", "add", "https://h.example/").stdout
    assert "https://h.example/" in run("hooks", "list").stdout
    run("hooks", "remove", "h1")
    assert "laptop" in run("tokens", "list").stdout
    assert run("tokens", "create", "ci").stdout == "new-secret\n"
    # Not a project's: there is no such option here.
    assert json.loads(run("tokens", "create", "", "--json", code=2).stderr)["error"]["field"] == "name"
    assert "ann@example.com" in run("members", "list").stdout


def test_settings_are_shown_and_changed_and_refused_with_the_remedy(platform: Platform) -> None:
    platform.add_project("my-app")
    assert "default" in run("settings").stdout
    changed = run("settings", "--build-timeout", "20m", "--memory", "512M")
    assert platform.bodies[-1][2] == {"build": {"timeout_s": 1200}, "run": {"memory_bytes": 512 << 20}}
    assert "20 min" in changed.stdout
    assert "choose at most 7200" in run("settings", "--build-timeout", "3h", code=2).stderr
    assert "20m" in run("settings", "--queue-timeout", "soon", code=2).stderr


def test_a_project_s_bake_time_is_set_switched_off_and_put_back_to_the_default(platform: Platform) -> None:
    platform.add_project("my-app")
    for given, run_settings, shown in (
        ("5m", {"bake_s": 300, "no_automatic_rollback": False}, "5 min 0 s"),
        ("off", {"no_automatic_rollback": True}, "off"),
        ("0", {"bake_s": 0, "no_automatic_rollback": False}, "default"),
    ):
        changed = run("settings", "--bake", given)
        assert platform.bodies[-1][2] == {"run": run_settings}
        assert re.search(rf"bake time +{shown}$", changed.stdout, re.MULTILINE)


def dead_event(number: int) -> dict[str, object]:
    return {
        "id": f"logs.ingest:{number}-0",
        "stream": "logs.ingest",
        "group": "log",
        "reason": "ValueError: no",
        "tries": 5,
        "buried_at": "2026-01-01T00:00:00Z",
        "event_id": "e",
        "event_type": "shipoff.events.v1.LogBatch",
        "team_id": "t",
        "event_time": "2026-01-01T00:00:00Z",
    }


def test_dead_events_are_listed_shown_replayed_and_dropped(platform: Platform) -> None:
    platform.dead.extend(dead_event(number) for number in range(4))
    listed = run("events", "dead", "list").stdout
    assert "logs.ingest:3-0" in listed
    assert "ValueError: no" in listed
    assert lines(run("events", "dead", "list", "--json"))[0]["items"][0]["tries"] == 5
    assert '"attempt": "1"' in run("events", "dead", "show", "logs.ingest:0-0").stdout
    assert "1 event given back" in run("events", "dead", "replay", "logs.ingest:0-0").stdout
    assert "no dead letter" in run("events", "dead", "show", "logs.ingest:0-0", code=4).stderr
    assert "--yes" in run("events", "dead", "drop", "logs.ingest:1-0", code=2).stderr
    assert lines(run("events", "dead", "drop", "logs.ingest:1-0", "--yes", "--json")) == [{"dropped": 1}]
    assert "2 events given back" in run("events", "dead", "replay", "--all", "--stream", "logs.ingest").stdout
    assert platform.bodies[-1][2] == {"stream": "logs.ingest", "group": ""}
    assert "No event is dead" in run("events", "dead", "list").stdout
    for wrong in (["replay"], ["drop", "--yes"], ["replay", "x", "--all"], ["replay", "x", "--group", "log"]):
        run("events", "dead", *wrong, code=2)


def test_destroy_wants_to_be_confirmed(platform: Platform) -> None:
    platform.add_project("my-app")
    assert "--yes" in run("destroy", code=2).stderr
    assert list(platform.projects) == ["my-app"]
    assert lines(run("destroy", "--yes", "--json")) == [{"deleted": "id-my-app", "name": "my-app"}]
    assert platform.projects == {}
