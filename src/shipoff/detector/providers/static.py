"""Plain files: an index.html, served as it is."""

from __future__ import annotations

from shipoff.detector.domain import Candidate, Evidence, Mode, Snapshot

_FOLDERS = ("public", "dist", "site", "www", "_site", "build", "out", "docs")


def static(snapshot: Snapshot) -> Candidate | None:
    """The root when it holds an index.html, else the first customary folder that does."""
    if snapshot.has("index.html"):
        return _candidate("index.html", ".", 30)
    folder = next((name for name in _FOLDERS if snapshot.has(f"{name}/index.html")), "")
    return _candidate(f"{folder}/index.html", folder, 20) if folder else None


def _candidate(index: str, folder: str, score: int) -> Candidate:
    where = "the root" if folder == "." else folder
    return Candidate(
        provider="static",
        score=score,
        mode=Mode.STATIC,
        output_dir=folder,
        evidence=(Evidence(index, "", f"an index page: the files of {where} are served as they are"),),
    )
