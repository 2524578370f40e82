"""Makes .venv out of a locked file: `venv.py runtime` or `venv.py dev`. Called by make; does nothing when it is current.

It runs before anything is installed, under whatever Python is there: the standard library only, and no new syntax.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCKS = {"runtime": "requirements.lock", "dev": "requirements-dev.lock"}
OLDEST = (3, 11)
NEWER = ("python3.14", "python3.13", "python3.12", "python3.11")


def right_python():
    """Goes on under a Python that is new enough; without one, ends with what to install."""
    if sys.version_info >= OLDEST:
        return
    for name in NEWER:
        found = shutil.which(name)
        if found:
            os.execv(found, [found, *sys.argv])  # noqa: S606
    sys.exit(
        f"Shipoff needs Python 3.11 or newer; python3 here is {sys.version_info[0]}.{sys.version_info[1]}.\n"
        "-> Debian 12, Ubuntu 24.04 or newer: apt-get install python3 python3-venv; macOS: brew install python@3.12\n"
        "   A Python that is somewhere else: make up PYTHON=/path/to/python3.12"
    )


def fingerprint(kind):
    """What the environment depends on: this kind's lock, the project's metadata, this interpreter, this place."""
    digest = hashlib.sha256(repr((sys.version_info[:2], str(ROOT))).encode())
    for name in (LOCKS[kind], "pyproject.toml"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def stamp(kind):
    """The file that says which lock was installed last."""
    return VENV / f".installed-{kind}"


def is_current(kind):
    """Whether everything of that kind is installed. What is installed for development is enough to run."""
    kinds = ["dev", "runtime"] if kind == "runtime" else ["dev"]
    return any(stamp(k).is_file() and stamp(k).read_text() == fingerprint(k) for k in kinds)


def pinned(package):
    """The lines of one package, hashes included, out of the locked file for development."""
    text = (ROOT / LOCKS["dev"]).read_text()
    return re.search(rf"^{re.escape(package)}==(?:.*\\\n)*.*\n", text, re.MULTILINE).group(0)


def make_environment():
    """An empty environment; an old one that is broken or of another Python is replaced."""
    python = VENV / "bin" / "python"
    asks = [str(python), "-c", f"import sys, pip; print(sys.version_info[:2] == {sys.version_info[:2]!r})"]
    if python.exists() and subprocess.run(asks, capture_output=True, text=True, check=False).stdout.strip() == "True":
        return
    shutil.rmtree(VENV, ignore_errors=True)
    made = subprocess.run([sys.executable, "-m", "venv", str(VENV)], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        printed = (made.stdout + made.stderr).strip()
        sys.exit(f"No virtual environment could be made:\n{printed}\n-> Debian and Ubuntu: apt-get install python3-venv")


def install(kind, packages):
    """Installs what is locked, each file checked against its hash, then this project in place."""
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--progress-bar", "off"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as backend:
        # Locked too, so that installing the project in place downloads nothing that has no hash.
        backend.write(pinned("setuptools"))
        backend.flush()
        files = ["-r", str(ROOT / LOCKS[kind])] + ([] if kind == "dev" else ["-r", backend.name])
        run([*pip, "--require-hashes", "--only-binary", ":all:", *files], packages)
    run([*pip, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)], packages)


def run(argv, packages):
    """Runs a step of the installation and counts what it gets; ends with all it printed when it fails."""
    printed, found = [], 0
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            printed.append(line)
            found += line.startswith(("Collecting ", "Requirement already satisfied"))
            if sys.stdout.isatty():
                doing = "installing" if line.startswith("Installing") else f"{min(found, packages)} of {packages}"
                print(f"\r  {doing}          ", end="\r", flush=True)
    if process.returncode != 0:
        sys.exit("".join(printed) + "The installation failed; the lines above say why.\n-> Then run the same make again.")


def main():
    """Makes the environment current."""
    kind = sys.argv[1]
    right_python()
    if is_current(kind):
        return
    packages = len(re.findall(r"^[\w.-]+(?:\[.*\])?==", (ROOT / LOCKS[kind]).read_text(), re.MULTILINE))
    print(f"Installing {packages} locked packages into .venv, once …", flush=True)
    started = time.monotonic()
    make_environment()
    install(kind, packages)
    stamp(kind).write_text(fingerprint(kind))
    print(f"Installed in {time.monotonic() - started:.0f} s.", flush=True)


if __name__ == "__main__":
    main()
