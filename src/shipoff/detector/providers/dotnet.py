""".NET: project files of the SDK style (https://learn.microsoft.com/dotnet/core/project-sdk/overview)."""

from __future__ import annotations

from dataclasses import dataclass

from shipoff.detector.domain import (
    Candidate,
    Choice,
    Evidence,
    Mode,
    PackageManager,
    Process,
    RuntimeVersion,
    Settings,
    Snapshot,
    Step,
)
from shipoff.detector.formats import Element, xml_children, xml_text, xml_tree
from shipoff.detector.manifests import json_table, text_at
from shipoff.detector.versions import version

_EXTENSIONS = (".csproj", ".fsproj", ".vbproj")
_OUTPUT = ".shipoff/out"
_WEB, _WORKER = "Microsoft.NET.Sdk.Web", "Microsoft.NET.Sdk.Worker"
_SERVER, _PROGRAM = 88, 70
_DEPTH = 2


@dataclass(frozen=True)
class _Project:
    file: str
    sdk: str
    name: str
    framework: str
    runs: bool


def dotnet(snapshot: Snapshot, _settings: Settings) -> Candidate | None:
    """The web project first, then a worker, then a program."""
    files = [path for path in snapshot.names() if path.endswith(_EXTENSIONS) and path.count("/") <= _DEPTH]
    projects = [project for file in files if (project := _project(snapshot, file))]
    runnable = [project for project in projects if project.runs]
    if not files:
        return None
    best = [project for project in runnable if project.sdk == _WEB] or runnable
    if len(best) != 1:
        choices = tuple(Choice(project.file.rpartition("/")[0] or ".", project.file) for project in best)
        seen = ", ".join(project.file for project in best[:4]) or f"{files[0]}, which is no program"
        missing = f"The .NET projects are {seen}. Set the root directory to the one to run."
        return Candidate("dotnet", _PROGRAM, Mode.SERVER, missing=missing, decided_by="root_directory", choices=choices)
    return _candidate(snapshot, best[0])


def _candidate(snapshot: Snapshot, project: _Project) -> Candidate:
    serves = project.sdk == _WEB
    publish = ("dotnet", "publish", project.file, "--configuration", "Release", "--output", _OUTPUT)
    run = ("dotnet", f"{_OUTPUT}/{project.name}.dll")
    lock = snapshot.first("packages.lock.json")
    return Candidate(
        "dotnet",
        _SERVER if serves else _PROGRAM,
        Mode.WORKER if project.sdk == _WORKER else Mode.SERVER,
        framework="aspnetcore" if serves else "",
        package_manager=PackageManager("nuget", "", lock, frozen=bool(lock)),
        runtimes=_runtimes(snapshot, project),
        steps=(Step("build", ((*publish, "-p:RestoreLockedMode=true") if lock else publish,), caches=("nuget",)),),
        web=(*run, "--urls", "http://$HOST:$PORT") if serves else () if project.sdk == _WORKER else run,
        others=(Process("worker", run),) if project.sdk == _WORKER else (),
        evidence=(Evidence(project.file, "Sdk", f"{project.sdk}: published by the .NET SDK"),),
    )


def _project(snapshot: Snapshot, file: str) -> _Project | None:
    tree = xml_tree(snapshot, file)
    if tree is None:
        return None
    sdk = tree.get("Sdk", "").partition("/")[0]
    kind = _property(tree, "OutputType").lower()
    stem = file.rpartition("/")[2].rpartition(".")[0]
    is_test = _property(tree, "IsTestProject").lower() == "true"
    name = _property(tree, "AssemblyName") or stem
    runs = (sdk in (_WEB, _WORKER) or kind in ("exe", "winexe")) and not is_test
    return _Project(file, sdk, name if "$" not in name else stem, _property(tree, "TargetFramework"), runs)


def _property(tree: Element, name: str) -> str:
    return next((value for group in xml_children(tree, "PropertyGroup") if (value := xml_text(group, name))), "")


def _runtimes(snapshot: Snapshot, project: _Project) -> tuple[RuntimeVersion, ...]:
    if asked := version(snapshot, "dotnet"):
        return (asked,)
    if sdk := text_at(json_table(snapshot, "global.json").table, "sdk", "version"):
        return (RuntimeVersion("dotnet", sdk[:64], "global.json: sdk.version"),)
    wanted = project.framework.removeprefix("net")[:64]
    return (RuntimeVersion("dotnet", wanted, f"{project.file}: TargetFramework"),) if wanted else ()
