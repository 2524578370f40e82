"""Apps inside bubblewrap: what one cannot see of another's, although both have the same account."""

from __future__ import annotations

import socket
import threading
import uuid
from pathlib import Path

import psutil
import pytest
from neighbours.runtime import Ground, Runtime, http
from neighbours.sandboxes import require_sandbox
from structlog.testing import capture_logs

from shipoff.common import sandbox
from shipoff.contracts.events.v1.events_pb2 import WorkloadReady
from shipoff.runtime.adapters.enclosure import sandbox_for
from shipoff.runtime.adapters.proctable import table

CANARY = "canary-of-the-other-app"


@pytest.fixture(autouse=True)
def _sandboxed() -> None:
    require_sandbox()


async def _two_apps(runtime: Runtime, eventually) -> tuple[int, str, str]:
    """The port of one app that looks around, and the deployments of it and of another of the same project."""
    project = str(uuid.uuid4())
    other = await runtime.apply("serve", variables={"HELLO": CANARY}, project_id=project)
    spy = await runtime.apply("serve", project_id=project)
    for deployment in (other, spy):
        (ready,) = await eventually(lambda one=deployment: runtime.events(one, WorkloadReady))
    return ready.endpoints[0].port, spy, other


@pytest.mark.parametrize("mode", ["required", "off"])
async def test_an_app_reads_no_files_environment_or_sockets_of_another_or_of_the_platform(
    ground: Ground, backing, tmp_path, eventually, mode
):
    # That these can be seen without a sandbox shows that the sandbox is what hides them.
    apart = mode == "required"
    paths = [backing.home, Path("/run"), Path("/tmp"), Path.home()]
    with socket.socket(socket.AF_UNIX) as listening:
        address = backing.home / f"{uuid.uuid4().hex[:8]}.sock"
        listening.bind(str(address))
        address.chmod(0o777)
        listening.listen()
        async with ground.runtime(sandbox=mode) as runtime:
            port, spy, other = await _two_apps(runtime, eventually)
            seen = {path: (await http(port, f"/look{path}")).split() for path in paths}
            source = await http(port, f"/look{runtime.apps}/{other}/release/app.py")
            environments = await http(port, "/environments")
            answer = await http(port, f"/look{address}")
            assert await http(port, f"/look{runtime.apps}/{spy}/release") == "app.py"
    address.unlink()
    assert (CANARY in environments) != apart
    assert ("MODE" in source) != apart
    assert (answer == "answers") != apart
    if apart:
        assert seen[backing.home] == ["apps"]
        assert seen[Path("/run")] in ([], ["systemd"])
        assert source == "FileNotFoundError"
        assert not set(seen[Path("/tmp")]) - {backing.home.name}
        assert seen[Path.home()] == []


async def test_nothing_outside_its_own_and_shared_folders_can_be_written_by_an_app(ground: Ground, shipoff_home, eventually):
    shared = shipoff_home / f"shared-{uuid.uuid4().hex[:6]}"
    shared.mkdir()
    shared.chmod(0o777)
    script = (
        "import os, sys, http.server\n"
        "kept = []\n"
        "home = os.environ['HOME']\n"
        f"for place in ('{shared}', '/', '/etc', '/usr', '/tmp', '/var/tmp', '/dev', '/dev/shm', '/home', '/run', home, '.'):\n"
        "    try:\n"
        "        open(place + '/probe', 'w').close()\n"
        "        kept.append(place)\n"
        "    except OSError:\n"
        "        pass\n"
        "print('written:', *kept, flush=True)\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()\n"
    )
    async with ground.runtime(sandbox="required", shared_folders=f"{shared}, /nowhere") as runtime:
        files = {"probe.py": script.encode()}
        deployment = await runtime.apply(processes={"web": ["python3", "probe.py", "$PORT"]}, files=files)
        await eventually(lambda: runtime.events(deployment, WorkloadReady))
        home = runtime.apps / deployment / "home"

        async def told() -> str:
            return next((text for *_, text in await runtime.lines(deployment) if text.startswith("written:")), "")

        assert await eventually(told) == f"written: {shared} /tmp /var/tmp /dev/shm {home} ."
        # /tmp is its own, and on the disk where it is counted.
        assert (runtime.apps / deployment / "tmp" / "probe").exists()


async def test_looking_for_the_sandbox_holds_up_nothing_else_of_the_process(ground: Ground, monkeypatch):
    asked: list[bool] = []

    def usable(mode: str) -> str:
        asked.append(threading.current_thread() is threading.main_thread())
        return ""

    monkeypatch.setattr(sandbox, "usable", usable)
    async with ground.runtime():
        assert asked == [False]


def test_a_shared_folder_that_is_not_there_is_named_in_the_log(tmp_path: Path):
    with capture_logs() as logs:
        made = sandbox_for("bwrap", "/usr/bin", private=(), shared=f"{tmp_path}, /nowhere,,")
    assert made is not None
    assert made.shared == (str(tmp_path.resolve()),)
    [warning] = logs
    assert (warning["log_level"], warning["folder"]) == ("warning", "/nowhere")
    assert "SHIPOFF_RUNTIME_SHARED_FOLDERS" in warning["remedy"]


async def test_when_the_sandbox_itself_is_killed_nothing_of_the_app_lives_on(ground: Ground, eventually):
    async with ground.runtime(sandbox="required") as runtime:
        deployment = await runtime.apply("family")
        await eventually(lambda: runtime.events(deployment, WorkloadReady))
        before = runtime.pids(deployment)
        monitor = table()[table()[min(before)].parent].parent
        assert psutil.Process(monitor).name() == "bwrap"
        psutil.Process(monitor).kill()
        await eventually(lambda: not before & runtime.pids(deployment) and len(runtime.pids(deployment)) == 3)
        assert (await runtime.get(deployment)).instances[0].last_exit == "killed by signal 9 (SIGKILL)"
