"""The folder of a deployment: its artifact, unpacked once, and places it may write to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from shipoff.common.accounts import tenant_uid
from shipoff.common.errors import DataLoss, Exhausted, InvalidInput, NotFound, Unavailable
from shipoff.common.failpoints import crossing
from shipoff.common.objects import ObjectStore
from shipoff.runtime.adapters import unpack
from shipoff.runtime.domain import Workload

_FETCH_S = 300.0
_UNPACK_S = 300.0
_MOST_BYTES = 8 << 30
_MOST_ENTRIES = 500_000


class Releases:
    """`<folder>/<deployment>/`: `release` (the artifact), `home` and `tmp`, closed to everyone but the tenant.

    The folder around them stays the platform's, so that a tenant cannot plant links where the platform writes.
    """

    def __init__(self, folder: Path, objects: ObjectStore) -> None:
        self._folder = folder
        self._objects = objects

    def of(self, deployment_id: str) -> Path:
        return self._folder / deployment_id

    def app_root(self, workload: Workload) -> Path:
        """Where the processes start. Raises InvalidInput when that is no folder inside the release."""
        release = (self.of(workload.deployment_id) / "release").resolve()
        root = (release / workload.app_root).resolve()
        if not root.is_relative_to(release) or not root.is_dir():
            raise InvalidInput(f"there is no folder {workload.app_root!r} in the artifact", field="workload.app_root")
        return root

    async def prepare(self, workload: Workload) -> None:
        """Fetches and unpacks the artifact; nothing when it is there.

        Raises InvalidInput, NotFound, DataLoss for one that can never run, Unavailable or Exhausted for another try.
        """
        folder = self.of(workload.deployment_id)
        if (folder / "release").is_dir():
            return
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711)
        uid = tenant_uid(workload.project_id)
        await asyncio.to_thread(_clean, folder)
        for name in ("home", "tmp"):
            _private(folder / name, uid)
        with tempfile.TemporaryDirectory(prefix="new-", dir=folder, ignore_cleanup_errors=True) as scratch:
            archive, whole = _open_scratch(Path(scratch))
            await self._fetch(workload, archive)
            crossing("release fetched")
            _private(whole, uid)
            await _unpack(archive, whole, uid)
            crossing("release unpacked")
            whole.rename(folder / "release")
        crossing("release prepared")

    async def _fetch(self, workload: Workload, archive: Path) -> None:
        artifact = workload.artifact
        try:
            async with asyncio.timeout(_FETCH_S):
                await self._objects.get_to_file(artifact.object_key, archive, digest=artifact.digest)
        except TimeoutError as error:
            raise Unavailable(f"the artifact could not be fetched within {_FETCH_S:g} s") from error
        except NotFound as error:
            raise NotFound("the artifact is gone", remedy="deploy again") from error
        except DataLoss as error:
            raise DataLoss("the artifact was damaged: it is not what its digest says", remedy="deploy again") from error
        except OSError as error:
            raise Exhausted(f"the artifact could not be written: {error.strerror}", retry_after_s=5.0) from error

    async def remove(self, deployment_id: str) -> None:
        """Removes the folder with everything in it."""
        await asyncio.to_thread(shutil.rmtree, self.of(deployment_id), ignore_errors=True)

    def exists(self, deployment_id: str) -> bool:
        return self.of(deployment_id).exists()


def _clean(folder: Path) -> None:
    """Removes what an attempt that was killed has left."""
    for path in folder.glob("new-*"):
        shutil.rmtree(path, ignore_errors=True)


def _open_scratch(folder: Path) -> tuple[Path, Path]:
    """Where the archive and the unpacked release go until they are whole; the tenant's process has to get through."""
    folder.chmod(0o711)
    return folder / "artifact", folder / "release"


def _private(folder: Path, uid: int | None) -> None:
    folder.mkdir(exist_ok=True, mode=0o700)
    if uid is not None:
        os.chown(folder, uid, uid)


async def _unpack(archive: Path, target: Path, uid: int | None) -> None:
    """Unpacks in a process of the tenant's own: what goes wrong there can touch nothing else."""
    script = [sys.executable, "-I", "-S", unpack.__file__, "-" if uid is None else str(uid)]
    with archive.open("rb") as source:
        process = await asyncio.create_subprocess_exec(
            *script, str(target), str(_MOST_BYTES), str(_MOST_ENTRIES),
            stdin=source, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, cwd="/", env={},
        )  # fmt: skip
    try:
        async with asyncio.timeout(_UNPACK_S):
            _, words = await process.communicate()
    except TimeoutError as error:
        raise Unavailable(f"the artifact could not be unpacked within {_UNPACK_S:g} s") from error
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    said = words.decode(errors="replace").strip()[-500:]
    if process.returncode == unpack.REJECTED:
        raise InvalidInput(f"the artifact is refused: {said}", field="workload.artifact")
    if process.returncode == unpack.FULL:
        raise Exhausted(f"the artifact could not be unpacked: {said}", retry_after_s=5.0)
    if process.returncode:
        raise Unavailable(f"the artifact could not be unpacked: {said or process.returncode}")
