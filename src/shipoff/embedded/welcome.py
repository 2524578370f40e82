"""The last steps of a start: the person's CLI is signed in, and a sample app is live."""

from __future__ import annotations

import asyncio
import getpass
import os
import sys
from pathlib import Path
from typing import Any

import httpx2

import shipoff
from shipoff.cli import credentials
from shipoff.cli.client import Api
from shipoff.cli.errors import ExitCode, Failure, Missing
from shipoff.common.errors import Unavailable
from shipoff.embedded.layout import write_private
from shipoff.embedded.platform import Platform
from shipoff.embedded.process import tail

SAMPLE = "hello-python"
TEAM = "main"

_GATEWAY_S = 30.0
_COMES_BACK_S = 60.0
_REQUEST_S = 5.0


async def until_gateway_answers(platform: Platform) -> None:
    """Waits until the API answers through the edge. Raises Unavailable when it does not."""
    await _until_answers(f"{platform.url}/healthz", platform.http_port, _GATEWAY_S)


def signed_in(platform: Platform) -> str | None:
    """A token that works, kept for the CLI: the saved one, the first owner's, or the one that setting up gives.

    None when the platform has its owner and none of their tokens is here. Blocks: call it in a thread.
    """
    owner = platform.layout.secrets / "owner-token"
    saved = credentials.load(platform.url).token
    kept = owner.read_text().strip() if owner.is_file() else ""
    token = next((token for token in (saved, kept) if token and _works(platform, token)), None) or _set_up(platform)
    if token is not None:
        if token != saved:
            # Whoever can read the data folder owns the platform: another account of theirs is signed in from here.
            write_private(owner, token + "\n")
        credentials.save(platform.url, token)
    return token


def _works(platform: Platform, token: str) -> bool:
    with Api(credentials.Credentials(platform.url, token)) as api:
        try:
            api.get("/v1/me")
        except Failure as error:
            if error.code != ExitCode.NOT_SIGNED_IN:
                raise
            return False
    return True


def _set_up(platform: Platform) -> str | None:
    name = getpass.getuser()
    body = {"setup_token": platform.setup_token, "email": f"{name}@{platform.base_domain}", "name": name, "team": TEAM}
    with Api(credentials.Credentials(platform.url, "")) as api:
        try:
            token = api.post("/v1/setup", body)["token"]
        except Failure as error:
            if error.code != ExitCode.REFUSED:
                raise
            return None
    return str(token["secret"] if isinstance(token, dict) else token)


def sample_is_wanted(platform: Platform, token: str) -> bool:
    """Whether there is no project yet, or the sample's first deployment was cut short. Blocks: call it in a thread."""
    with Api(credentials.Credentials(platform.url, token)) as api:
        names = {str(project["name"]) for project in api.items("/v1/projects")}
        if SAMPLE not in names:
            return not names
        status = api.get(f"/v1/projects/{SAMPLE}/status")
        return not status.get("live") and not _under_way(status.get("latest"))


def sample_is_live(platform: Platform, token: str) -> bool:
    """Whether the sample serves, or did when the platform stopped. Blocks: call it in a thread."""
    with Api(credentials.Credentials(platform.url, token)) as api:
        try:
            return bool(api.get(f"/v1/projects/{SAMPLE}/status").get("live"))
        except Missing:
            return False


def _under_way(deployment: dict[str, Any] | None) -> bool:
    return deployment is not None and deployment["state"] in ("queued", "building", "provisioning")


def sample_folder() -> Path | None:
    """The sample's source, where this is a checkout."""
    folder = Path(shipoff.__file__).resolve().parents[2] / "examples" / SAMPLE
    return folder if folder.is_dir() else None


async def deploy_sample(platform: Platform, token: str, folder: Path) -> None:
    """Deploys it as a person would. Raises Unavailable with the end of what that printed."""
    path = platform.layout.log / "sample.log"
    argv = [sys.executable, "-m", "shipoff", "deploy", str(folder), "--project", SAMPLE]
    environment = {**os.environ, "SHIPOFF_URL": platform.url, "SHIPOFF_TOKEN": token}
    with path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *argv, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            code = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
    if code != 0:
        raise Unavailable(tail(path, lines=12), remedy=f"shipoff deploy {folder} tries again")


async def until_sample_answers(platform: Platform) -> None:
    """Waits until the sample's page is there. Raises Unavailable when it does not come."""
    await _until_answers(platform.app_url(SAMPLE), platform.http_port, _COMES_BACK_S)


async def _until_answers(url: str, port: int, timeout_s: float) -> None:
    """Waits for a 2xx. Names below localhost are not known to every resolver, so the address is dialled."""
    target = httpx2.URL(url)
    deadline = asyncio.get_running_loop().time() + timeout_s
    async with httpx2.AsyncClient(timeout=_REQUEST_S, trust_env=False) as client:
        while True:
            last = "no answer"
            try:
                response = await client.get(target.copy_with(host="127.0.0.1"), headers={"Host": f"{target.host}:{port}"})
                if response.is_success:
                    return
                last = f"status {response.status_code}"
            except httpx2.HTTPError as error:
                last = str(error) or type(error).__name__
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable(f"{url} does not answer after {timeout_s:g} s: {last}")
            await asyncio.sleep(0.1)
