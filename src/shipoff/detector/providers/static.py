"""Plain files: an index.html, or the folder that a Staticfile names, served as they are."""

from __future__ import annotations

from shipoff.detector.domain import Candidate, Evidence, Mode, Settings, Snapshot, folder_of
from shipoff.detector.formats import yaml_table

_STATICFILE = "Staticfile"
_FOLDERS = ("public", "dist", "site", "www", "_site", "build", "out", "docs")


def static(snapshot: Snapshot, _settings: Settings) -> Candidate | None:
    """What a Staticfile says, else the root when it holds an index.html, else the first customary folder that does."""
    if snapshot.has(_STATICFILE):
        return _staticfile(snapshot)
    if snapshot.has("index.html"):
        return _candidate("index.html", ".", 30)
    folder = next((name for name in _FOLDERS if snapshot.has(f"{name}/index.html")), "")
    return _candidate(f"{folder}/index.html", folder, 20) if folder else None


def _staticfile(snapshot: Snapshot) -> Candidate:
    """Heroku's and Cloud Foundry's: `root: public`, `pushstate: enabled`."""
    said = yaml_table(snapshot, _STATICFILE).table
    folder = folder_of(str(said.get("root") or ".")) or "."
    spa = str(said.get("pushstate", "")).lower() in ("enabled", "true")
    evidence = (Evidence(_STATICFILE, "root", f"the files of {folder} are served as they are"),)
    return Candidate("static", 40, Mode.SPA if spa else Mode.STATIC, output_dir=folder, evidence=evidence)


def _candidate(index: str, folder: str, score: int) -> Candidate:
    where = "the root" if folder == "." else folder
    return Candidate(
        provider="static",
        score=score,
        mode=Mode.STATIC,
        output_dir=folder,
        evidence=(Evidence(index, "", f"an index page: the files of {where} are served as they are"),),
    )
