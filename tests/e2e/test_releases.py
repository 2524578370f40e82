"""Releases that come back, through the whole platform: by hand, and by themselves when a newer one breaks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from e2e.harness import Platform, wait_until


def deployments(platform: Platform, project: str) -> list[dict[str, Any]]:
    """The newest first."""
    found: list[dict[str, Any]] = platform.api("GET", f"/v1/projects/{project}/deployments").json()["items"]
    return found


def timeline(platform: Platform, project: str, number: int) -> dict[str, Any]:
    """As the CLI tells it."""
    (found,) = platform.cli("status", str(number), "--timeline", "--project", project, "--json").lines
    return found


def stays(found: dict[str, Any]) -> list[str]:
    return [stay["state"] for stay in found["items"]]


def version(folder: Path, text: str) -> Path:
    """An app that lives, shows this text, and breaks for good at a visit to /break."""
    server = folder / "server.py"
    source = re.sub(r'body = b"[^"]*"', f'body = b"{text}"', server.read_text())
    server.write_text(source.replace('"CRASH_AFTER_S", "5"', '"CRASH_AFTER_S", "3600"'))
    return folder


def test_an_earlier_release_comes_back_by_hand_and_by_itself(platform: Platform, copied, record_property):
    folder: Path = copied("crashes-after-start")
    platform.deploy(version(folder, "the first"), "returns")
    platform.deploy(version(folder, "the second"), "returns")
    assert platform.page("returns") == "the second"

    platform.cli("rollback", "--project", "returns", "--json")
    assert platform.page("returns") == "the first"
    by_hand = timeline(platform, "returns", 3)
    assert stays(by_hand) == ["queued", "provisioning", "production"]
    # The bound of two seconds is that of an idle machine; here it is only told.
    record_property("rollback_s", by_hand["total_s"])
    assert "@" in by_hand["items"][0]["actor"]

    platform.cli("rollback", "--to", "2", "--project", "returns", "--json")
    assert platform.page("returns") == "the second"
    assert platform.page("returns", "/break") == "the second"
    wait_until(lambda: deployments(platform, "returns")[0]["number"] == 5, what="nothing was put back")
    wait_until(lambda: deployments(platform, "returns")[0]["state"] == "production")
    assert platform.page("returns") == "the first"

    back, broken, *_ = deployments(platform, "returns")
    assert (back["trigger"], back["state"]) == ("automatic_rollback", "production")
    assert back["reason"].startswith("puts #3 back, because #4 broke: crash loop: exited 3 times")
    assert broken["state"] == "failed"
    assert broken["reason"].startswith("it broke while serving: crash loop")
    assert broken["reason"].endswith("#5 took its place")
    assert [one["state"] for one in deployments(platform, "returns")].count("production") == 1
    assert stays(timeline(platform, "returns", 4)) == ["queued", "provisioning", "production", "failed"]
    assert stays(timeline(platform, "returns", 5)) == ["queued", "provisioning", "production"]
    told = platform.cli("status", "--project", "returns").out
    assert "live      #5 production" in told
    assert "because #4 broke" in told


def test_a_release_command_runs_before_the_switch_and_its_failure_leaves_the_old_release_serving(platform: Platform, copied):
    folder: Path = copied("crashes-after-start")
    (folder / "Procfile").write_text("release: python3 -c \"print('the tables are made')\"\n")
    platform.deploy(version(folder, "the first"), "migrates")
    assert platform.page("migrates") == "the first"
    assert "the tables are made" in platform.cli("logs", "--project", "migrates").out

    (folder / "Procfile").write_text("release: python3 -c \"raise SystemExit('no such column')\"\n")
    failed = platform.cli("deploy", str(version(folder, "the second")), "--project", "migrates", "--json", code=None)
    assert failed.code != 0
    assert platform.latest("migrates")["reason"] == "its release command failed: exit code 1 — last lines: no such column"
    assert platform.page("migrates") == "the first"


def test_a_release_shows_what_it_was_made_from_and_takes_it_along(platform: Platform, copied):
    folder: Path = copied("crashes-after-start")
    platform.api("POST", "/v1/projects", json={"name": "snapshots"}).raise_for_status()
    run = {"memory_bytes": 200 << 20, "bake_s": 30}
    platform.api("PATCH", "/v1/projects/snapshots", json={"run": run}).raise_for_status()
    platform.cli("env", "set", "GREETING=secret-one", "--project", "snapshots")
    first = platform.deploy(version(folder, "here"), "snapshots")["snapshot"]
    platform.cli("env", "set", "GREETING=secret-two", "--project", "snapshots")
    platform.api("PATCH", "/v1/projects/snapshots", json={"run": {"memory_bytes": 300 << 20}}).raise_for_status()
    platform.cli("redeploy", "--project", "snapshots", "--json")
    assert platform.latest("snapshots")["snapshot"] == first
    assert (first["variables"], first["run"]["memory_bytes"], first["run"]["bake_s"]) == ({"GREETING": 1}, 200 << 20, 30)
    assert first["artifact_digest"].startswith("sha256:")
    platform.cli("redeploy", "--current-env", "--project", "snapshots", "--json")
    now = platform.latest("snapshots")["snapshot"]
    assert (now["variables"], now["run"]["memory_bytes"]) == ({"GREETING": 2}, 300 << 20)
    shown = platform.cli("status", "1", "--project", "snapshots").out
    assert "GREETING (version 1)" in shown
    assert "200.0 MiB" in shown
    assert "secret" not in shown + str(first)
