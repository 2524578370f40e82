"""PHP: Laravel, Symfony, and plain pages. Composer's manifest: https://getcomposer.org/doc/04-schema.md."""

from __future__ import annotations

from shipoff.detector.domain import Argv, Candidate, Evidence, Mode, PackageManager, RuntimeVersion, Settings, Snapshot, Step
from shipoff.detector.manifests import Table, json_table, table_at, text_at
from shipoff.detector.versions import version

_FRAMEWORKS = {
    "laravel/framework": "laravel",
    "symfony/framework-bundle": "symfony",
    "slim/slim": "slim",
    "cakephp/cakephp": "cakephp",
    "yiisoft/yii2": "yii",
    "codeigniter4/framework": "codeigniter",
}
_FOLDERS = ("public", "web", "www", "webroot", "htdocs")
# Composer has no flag of its own for a lock file that must not change: `install` never changes one.
_INSTALL: Argv = ("composer", "install", "--no-dev", "--no-interaction", "--prefer-dist", "--optimize-autoloader")
_FRAMEWORK, _PAGE, _MANIFEST = 90, 62, 45
_NO_PAGE = "composer.json was seen, but no index.php to serve. Set a start command."
_BUILT_IN = "PHP's own web server is used: for heavy traffic set a start command with FrankenPHP, RoadRunner or php-fpm"


def php(snapshot: Snapshot, _settings: Settings) -> Candidate | None:
    """A framework by what composer.json requires, else an index.php."""
    reading = json_table(snapshot, "composer.json")
    if reading.unreadable:
        return Candidate("php", _MANIFEST, Mode.SERVER, blocked=f"{reading.unreadable}. Mend it and deploy again.")
    required = table_at(reading.table, "require")
    framework = next((name for package, name in _FRAMEWORKS.items() if package in required), "")
    index = snapshot.first("index.php", *(f"{folder}/index.php" for folder in _FOLDERS))
    if not index and not snapshot.has("composer.json"):
        return None
    folder = index.rpartition("/")[0] or "."
    composed = snapshot.has("composer.json")
    key = next((package for package, name in _FRAMEWORKS.items() if name == framework), "")
    evidence = [Evidence("composer.json", f"require.{key}", f"{framework} application")] if framework else []
    evidence += [Evidence(index, "", f"pages are served from {'the root' if folder == '.' else folder}")] if index else []
    return Candidate(
        "php",
        _FRAMEWORK if framework else _PAGE if index else _MANIFEST,
        Mode.SERVER,
        framework=framework,
        package_manager=_manager(snapshot) if composed else PackageManager(),
        runtimes=_runtimes(snapshot, reading.table),
        steps=(*((_install(snapshot),) if composed else ()), *_front_end(snapshot)),
        web=_web(snapshot, framework, folder) if index or snapshot.has("artisan") else (),
        evidence=tuple(evidence),
        warnings=(_BUILT_IN,) if index else (),
        missing=""
        if index or snapshot.has("artisan")
        else "composer.json was seen, but no index.php to serve. Set a start command.",
        programs_folder="vendor/bin" if composed else "",
    )


def _web(snapshot: Snapshot, framework: str, folder: str) -> Argv:
    if framework == "laravel" and snapshot.has("artisan"):
        return ("php", "artisan", "serve", "--host", "$HOST", "--port", "$PORT")
    # Files are served as they are, everything else goes to the folder's index.php.
    return ("php", "-S", "$HOST:$PORT", "-t", folder)


def _manager(snapshot: Snapshot) -> PackageManager:
    lock = "composer.lock" if snapshot.has("composer.lock") else ""
    return PackageManager("composer", "", lock, frozen=bool(lock))


def _install(snapshot: Snapshot) -> Step:
    return Step("install", (_INSTALL,), caches=("composer",))


def _front_end(snapshot: Snapshot) -> tuple[Step, ...]:
    """What a package.json beside it builds (Laravel with Vite, Symfony with Encore)."""
    reading = json_table(snapshot, "package.json")
    if not text_at(reading.table, "scripts", "build"):
        return ()
    verb = "ci" if snapshot.has("package-lock.json") else "install"
    install = ("npm", verb, "--include=dev", "--no-audit", "--no-fund")
    return (Step("build", (install, ("npm", "run", "build")), caches=("npm",)),)


def _runtimes(snapshot: Snapshot, manifest: Table) -> tuple[RuntimeVersion, ...]:
    if asked := version(snapshot, "php"):
        return (asked,)
    for keys in (("config", "platform", "php"), ("require", "php")):
        if written := text_at(manifest, *keys):
            return (RuntimeVersion("php", written[:64], f"composer.json: {'.'.join(keys)}"),)
    return ()
