"""Ruby: Rails, Sinatra, Rack, and scripts. Bundler's lock file is read by its sections, the Gemfile by its statements."""

from __future__ import annotations

import re

from shipoff.detector.domain import Argv, Candidate, Evidence, Mode, PackageManager, RuntimeVersion, Settings, Snapshot, Step
from shipoff.detector.manifests import MAX_MANIFEST_BYTES, text
from shipoff.detector.versions import version

_GEM = re.compile(r"""gem[ \t(]+["']([\w.-]+)["']""")
_RUBY = re.compile(r"""ruby[ \t(]+["']([^"'\n]{1,40})["']""")
_SPEC = re.compile(r" {4}([\w.-]+) \(")
_LOCKED_RUBY = re.compile(r" {3}ruby (\d[\d.]*)")
_SCRIPTS = ("app.rb", "main.rb", "server.rb", "bot.rb")
_FRAMEWORKS = ("rails", "hanami", "sinatra", "roda", "grape")
_RELATIVE: tuple[Argv, ...] = (
    ("bundle", "config", "set", "--local", "path", "vendor/bundle"),
    ("bundle", "config", "set", "--local", "without", "development:test"),
)
_FRAMEWORK, _RACK, _MANIFEST_AND_SCRIPT, _SCRIPT = 90, 75, 62, 40


def ruby(snapshot: Snapshot, _settings: Settings) -> Candidate | None:
    """A framework among the gems first, then config.ru, then a script."""
    bundled = snapshot.has("Gemfile")
    script = snapshot.first(*_SCRIPTS)
    if not bundled and not script:
        return None
    known = gems(snapshot)
    framework = next((name for name in _FRAMEWORKS if name in known), "")
    web, evidence = _web(snapshot, framework, known)
    score = (
        _FRAMEWORK
        if framework and web
        else _RACK
        if snapshot.has("config.ru")
        else _MANIFEST_AND_SCRIPT
        if bundled
        else _SCRIPT
    )
    lock = snapshot.first("Gemfile.lock")
    missing = "" if web else "Gemfile was seen, but no config.ru and no app.rb. Set a start command, or add a Procfile."
    return Candidate(
        "ruby",
        score,
        Mode.SERVER,
        framework=framework,
        package_manager=PackageManager("bundler", _bundler(snapshot), lock, frozen=bool(lock)) if bundled else PackageManager(),
        runtimes=_runtimes(snapshot),
        steps=(*((install(snapshot, lock),) if bundled else ()), *_assets(snapshot, framework, known)),
        web=web,
        evidence=evidence,
        warnings=() if lock or not bundled else ("there is no Gemfile.lock: run `bundle lock` and add it",),
        missing=missing,
    )


def _web(snapshot: Snapshot, framework: str, known: frozenset[str]) -> tuple[Argv, tuple[Evidence, ...]]:
    found = (Evidence("Gemfile", framework, f"{framework} application"),) if framework else ()
    if framework == "rails":
        return ("bundle", "exec", "rails", "server", "-b", "$HOST", "-p", "$PORT", "-e", "production"), found
    if snapshot.has("config.ru"):
        rack = Evidence("config.ru", "", "a Rack application")
        if "puma" in known:
            return ("bundle", "exec", "puma", "-b", "tcp://$HOST:$PORT"), (*found, rack)
        return ("bundle", "exec", "rackup", "-o", "$HOST", "-p", "$PORT", "config.ru"), (*found, rack)
    script = snapshot.first(*_SCRIPTS)
    if not script:
        return (), found
    starts = (*found, Evidence(script, "", "a customary file to start from"))
    run: Argv = ("bundle", "exec", "ruby", script) if snapshot.has("Gemfile") else ("ruby", script)
    # A classic Sinatra application takes its address from the command line.
    return ((*run, "-o", "$HOST", "-p", "$PORT") if framework == "sinatra" else run), starts


def install(snapshot: Snapshot, lock: str) -> Step:
    """Bundler's install into the app's own folder."""
    frozen = (("bundle", "config", "set", "--local", "frozen", "true"),) if lock else ()
    inputs = tuple(sorted(file for file in ("Gemfile", "Gemfile.lock", ".ruby-version") if snapshot.has(file)))
    local = any(path.endswith(".gemspec") for path in snapshot.paths)
    return Step("install", (*_RELATIVE, *frozen, ("bundle", "install")), caches=("bundler",), inputs=() if local else inputs)


def _assets(snapshot: Snapshot, framework: str, known: frozenset[str]) -> tuple[Step, ...]:
    if framework != "rails" or not {"sprockets-rails", "propshaft", "sprockets"} & known:
        return ()
    env = {"RAILS_ENV": "production", "SECRET_KEY_BASE_DUMMY": "1"}
    return (Step("build", (("bundle", "exec", "rails", "assets:precompile"),), env=env),)


def gems(snapshot: Snapshot) -> frozenset[str]:
    """What the lock file resolves; without one, what the Gemfile names."""
    locked = {match[1] for line in _lock_lines(snapshot) if (match := _SPEC.match(line))}
    return frozenset(locked or (match[1] for line in _statements(snapshot) if (match := _GEM.match(line))))


def _lock_lines(snapshot: Snapshot) -> list[str]:
    return text(snapshot, "Gemfile.lock", limit=MAX_MANIFEST_BYTES).splitlines()


def _statements(snapshot: Snapshot) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in text(snapshot, "Gemfile").splitlines())
    return [line for line in lines if line]


def _bundler(snapshot: Snapshot) -> str:
    lines = _lock_lines(snapshot)
    after = lines[lines.index("BUNDLED WITH") + 1 :] if "BUNDLED WITH" in lines else []
    return after[0].strip()[:32] if after else ""


def _runtimes(snapshot: Snapshot) -> tuple[RuntimeVersion, ...]:
    if asked := version(snapshot, "ruby"):
        return (asked,)
    for line in _statements(snapshot):
        if match := _RUBY.match(line):
            return (RuntimeVersion("ruby", match[1], "Gemfile: ruby"),)
    locked = next((match[1] for line in _lock_lines(snapshot) if (match := _LOCKED_RUBY.fullmatch(line.partition("p")[0]))), "")
    return (RuntimeVersion("ruby", locked, "Gemfile.lock: RUBY VERSION"),) if locked else ()
