"""Site generators of other languages: Hugo, Zola, Jekyll, Middleman."""

from __future__ import annotations

from shipoff.detector.domain import Argv, Candidate, Evidence, Mode, PackageManager, Settings, Snapshot, Step, folder_of
from shipoff.detector.formats import yaml_table
from shipoff.detector.manifests import Table, json_table, toml_table
from shipoff.detector.providers.ruby import gems, install

_HUGO = ("hugo.toml", "hugo.yaml", "hugo.yml", "hugo.json", "config.toml", "config.yaml", "config.yml", "config.json")
_SCORE = 85


def sites(snapshot: Snapshot, _settings: Settings) -> Candidate | None:
    """By the generator's own configuration: the keys in it, not the file's name alone."""
    return _hugo(snapshot) or _zola(snapshot) or _jekyll(snapshot) or _middleman(snapshot)


def _hugo(snapshot: Snapshot) -> Candidate | None:
    file = snapshot.first(*_HUGO)
    said = {key.lower(): value for key, value in _table(snapshot, file).items()} if file else {}
    if not file or ("baseurl" not in said and not file.startswith("hugo.")):
        return None
    return _site(snapshot, "hugo", (file, "baseURL"), ("hugo", "--gc", "--minify"), said.get("publishdir"))


def _zola(snapshot: Snapshot) -> Candidate | None:
    said = toml_table(snapshot, "config.toml").table if snapshot.has("config.toml") else {}
    if "base_url" not in said:
        return None
    return _site(snapshot, "zola", ("config.toml", "base_url"), ("zola", "build"), said.get("output_dir"))


def _jekyll(snapshot: Snapshot) -> Candidate | None:
    if not snapshot.has("_config.yml") or not {"jekyll", "github-pages"} & gems(snapshot):
        return None
    folder = yaml_table(snapshot, "_config.yml").table.get("destination") or "_site"
    return _site(snapshot, "jekyll", ("_config.yml", ""), ("bundle", "exec", "jekyll", "build"), folder)


def _middleman(snapshot: Snapshot) -> Candidate | None:
    if not snapshot.has("config.rb") or "middleman" not in gems(snapshot):
        return None
    return _site(snapshot, "middleman", ("config.rb", ""), ("bundle", "exec", "middleman", "build"), "build")


def _table(snapshot: Snapshot, file: str) -> Table:
    kind = file.rpartition(".")[2]
    read = toml_table if kind == "toml" else json_table if kind == "json" else yaml_table
    return read(snapshot, file).table


def _site(snapshot: Snapshot, name: str, betrayed: tuple[str, str], build: Argv, output: object) -> Candidate:
    folder = folder_of(output) if isinstance(output, str) and output else "public"
    bundled = build[0] == "bundle"
    lock = snapshot.first("Gemfile.lock") if bundled else ""
    return Candidate(
        name if not bundled else "ruby",
        _SCORE,
        Mode.STATIC,
        framework=name,
        package_manager=PackageManager("bundler", "", lock, frozen=bool(lock)) if bundled else PackageManager(),
        steps=(*((install(snapshot, lock),) if bundled else ()), Step("build", (build,))),
        output_dir=folder or "public",
        evidence=(Evidence(*betrayed, f"{name} site, built to files in {folder or 'public'}"),),
    )
