"""Go: modules (https://go.dev/ref/mod) and workspaces; a program is a folder with a `package main`."""

from __future__ import annotations

import re

from shipoff.detector.domain import Candidate, Choice, Evidence, Mode, PackageManager, RuntimeVersion, Settings, Snapshot, Step
from shipoff.detector.manifests import text
from shipoff.detector.versions import version

PROGRAM = ".shipoff/bin/app"
_FRAMEWORKS = {
    "github.com/gin-gonic/gin": "gin",
    "github.com/labstack/echo": "echo",
    "github.com/gofiber/fiber": "fiber",
    "github.com/go-chi/chi": "chi",
    "github.com/beego/beego": "beego",
    "github.com/gorilla/mux": "gorilla",
}
_MAIN = re.compile(r"^package[ \t]+main\b", re.MULTILINE)
_MAJOR = re.compile(r"/v\d+$")
_CUSTOMARY = ("cmd/server", "cmd/api", "cmd/web", "cmd/app", "cmd/main")
# What Go downloads can be removed again by whoever cleans the cache up.
_ENV = {"GOFLAGS": "-modcacherw"}
_BUILT, _LONE = 72, 45


def go(snapshot: Snapshot, _settings: Settings) -> Candidate | None:
    """The module's only program, else the one in the root or in a customary folder."""
    manifest = snapshot.first("go.mod", "go.work")
    programs = _programs(snapshot)
    if not manifest and "." not in programs:
        return None
    lines = _statements(text(snapshot, "go.mod"))
    required = {_MAJOR.sub("", words[1] if words[0] == "require" else words[0]) for words in lines if len(words) > 1}
    framework = next((name for module, name in _FRAMEWORKS.items() if module in required), "")
    target = _target(programs)
    steps = (*_downloading(snapshot), Step("build", (_build(target, manifest),), env=_ENV, caches=("go", "go-build")))
    return Candidate(
        "go",
        _BUILT if manifest else _LONE,
        Mode.SERVER,
        framework=framework,
        package_manager=_manager(snapshot, manifest),
        runtimes=_runtimes(snapshot, lines),
        steps=steps,
        web=(PROGRAM,) if target else (),
        evidence=(
            Evidence(manifest or "main.go", "", "a Go module: compiled to one program"),
            *((Evidence(target, "", "the folder of the program's package main"),) if target else ()),
        ),
        decided_by="start_command" if snapshot.has("go.mod") else "root_directory",
        choices=() if target else _choices(snapshot, programs),
        missing="" if target else _missing(programs),
        programs_folder="",
    )


def _choices(snapshot: Snapshot, programs: list[str]) -> tuple[Choice, ...]:
    """Of a module, a command for each program; of a workspace, each one's folder."""
    kind = "go run ./" if snapshot.has("go.mod") else ""
    return tuple(Choice(f"{kind}{folder}", f"the program in {folder}") for folder in programs)


def _missing(programs: list[str]) -> str:
    if not programs:
        return "go.mod was seen, but no folder with a package main. Add a main.go, or set the root directory."
    shown = ", ".join(programs[:6])
    return f"go.mod was seen with several programs: {shown}. Set a build command and a start command for one of them."


def _manager(snapshot: Snapshot, manifest: str) -> PackageManager:
    lock = snapshot.first("go.sum", "go.work.sum")
    return PackageManager("go", "", lock, frozen=bool(lock)) if manifest else PackageManager("go")


def _downloading(snapshot: Snapshot) -> tuple[Step, ...]:
    if not snapshot.has("go.mod") or snapshot.has("go.work"):
        return ()
    inputs = tuple(sorted(file for file in ("go.mod", "go.sum") if snapshot.has(file)))
    return (Step("install", (("go", "mod", "download"),), env=_ENV, caches=("go",), inputs=inputs),)


def _build(target: str, manifest: str) -> tuple[str, ...]:
    what = "main.go" if not manifest else "." if target in ("", ".") else f"./{target}"
    return ("go", "build", "-trimpath", "-ldflags=-s -w", "-o", PROGRAM, what)


def _target(programs: list[str]) -> str:
    for folder in (".", *_CUSTOMARY):
        if folder in programs:
            return folder
    return programs[0] if len(programs) == 1 else ""


def _programs(snapshot: Snapshot) -> list[str]:
    """The folders with a main.go of `package main`; one that was not read counts too."""
    found = set()
    for path in snapshot.names():
        folder, _, name = path.rpartition("/")
        if name != "main.go" or folder.count("/") > 2 or "vendor" in folder.split("/"):
            continue
        if path not in snapshot.contents or _MAIN.search(text(snapshot, path)):
            found.add(folder or ".")
    return sorted(found)


def _statements(source: str) -> list[list[str]]:
    """go.mod's lines as words, without comments and block brackets."""
    lines = (line.partition("//")[0].split() for line in source.splitlines())
    return [words for words in lines if words and words != [")"] and words[-1] != "("]


def _runtimes(snapshot: Snapshot, lines: list[list[str]]) -> tuple[RuntimeVersion, ...]:
    if asked := version(snapshot, "go"):
        return (asked,)
    for key in ("toolchain", "go"):
        if written := next((words[1][:64] for words in lines if words[0] == key and len(words) > 1), ""):
            return (RuntimeVersion("go", written.removeprefix("go"), f"go.mod: {key}"),)
    work = next((words[1][:64] for words in _statements(text(snapshot, "go.work")) if words[0] == "go" and len(words) > 1), "")
    return (RuntimeVersion("go", work, "go.work: go"),) if work else ()


def workspace_folders(source: str) -> list[str]:
    """The folders that a go.work file uses."""
    folders, block = [], False
    for line in source.splitlines():
        words = line.partition("//")[0].split()
        if words[:2] == ["use", "("]:
            block = True
        elif words == [")"]:
            block = False
        elif block and words:
            folders.append(words[0].strip('"'))
        elif words[:1] == ["use"] and len(words) > 1:
            folders.append(words[1].strip('"'))
    return folders
