"""Python: the file an app starts from, and the WSGI or ASGI object in it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from shipoff.detector.domain import Snapshot
from shipoff.detector.manifests import text
from shipoff.detector.syntax import Application, application, is_module, module_assigns, parse, settings_module

_STEMS = ("main", "app", "wsgi", "asgi", "server", "application", "run", "api", "index", "__init__")
_SCRIPTS = ("main.py", "app.py", "server.py", "run.py", "bot.py", "__main__.py", "src/main.py", "src/app.py", "src/server.py")
_NOT_APPS = frozenset({"tests", "test", "migrations", "node_modules", "venv", "env", "docs", "scripts", "examples", "setup"})
_MAX_FILES = 60
# A syntax tree takes its time: about two seconds for this much in all.
_MAX_BYTES = 256 << 10
_MAX_DEPTH = 3


@dataclass(frozen=True)
class Entry:
    """`application` of `module`, importable with `folder` (empty: the root) on the path."""

    file: str
    folder: str
    module: str
    application: Application


@dataclass(frozen=True)
class Django:
    """A Django project; `entry` is its WSGI or ASGI module."""

    entry: Entry
    settings: str
    collects_static: bool


@dataclass(frozen=True)
class _Module:
    file: str
    folder: str
    name: str
    # With `.__init__` for a package's own file, so that its relative imports can be resolved.
    qualified: str
    tree: ast.Module


def entry(snapshot: Snapshot) -> Entry | None:
    """The application to serve: an object before a factory, the customary file nearest to the root first.

    Names are followed once through imports within the source: `from shop import create_app` and `app = create_app()`.
    """
    modules = list(_modules(snapshot))
    known: dict[str, Application] = {}
    for module in modules:
        if found := application(module.tree, module.qualified):
            known[f"{module.name}.{found.name}"] = found
    entries = [
        Entry(module.file, module.folder, module.name, found)
        for module in modules
        if (found := application(module.tree, module.qualified, known))
    ]
    return min(entries, key=lambda found: (found.application.factory, _rank(found.file)), default=None)


def script(snapshot: Snapshot) -> str:
    """A file to run as it is; empty: none."""
    return snapshot.first(*_SCRIPTS)


def trees(snapshot: Snapshot, *paths: str) -> Mapping[str, ast.Module]:
    """The syntax trees of those of these files that can be read."""
    parsed = {path: parse(text(snapshot, path)) for path in paths if path in snapshot.contents}
    return {path: tree for path, tree in parsed.items() if tree}


def _rank(file: str) -> tuple[int, int, str]:
    *folders, name = file.removeprefix("src/").split("/")
    stem = name.removesuffix(".py")
    return (len(folders), _STEMS.index(stem) if stem in _STEMS else len(_STEMS), file)


def _modules(snapshot: Snapshot) -> Iterator[_Module]:
    """The files that may hold an application and can be read, likeliest first."""
    # A folder with a pyproject.toml of its own is another project: a member of a workspace, or an example.
    others = {folder for folder in snapshot.folders() if folder != "." and "pyproject.toml" in snapshot.files_in(folder)}
    files = [path for path in snapshot.contents if path.endswith(".py") and _may_hold_app(path) and not _within(path, others)]
    left = _MAX_BYTES
    for file in sorted(files, key=_rank)[:_MAX_FILES]:
        left -= len(snapshot.contents[file])
        if left < 0:
            return
        folder = "src" if file.startswith("src/") and not snapshot.has("src/__init__.py") else ""
        qualified = file.removeprefix(f"{folder}/" if folder else "").removesuffix(".py").replace("/", ".")
        name = qualified.removesuffix("__init__").removesuffix(".")
        tree = parse(text(snapshot, file))
        if tree and all(part.isidentifier() for part in name.split(".")):
            yield _Module(file, folder, name, qualified, tree)


def _within(path: str, folders: set[str]) -> bool:
    parts = path.split("/")
    return bool(folders) and any("/".join(parts[:count]) in folders for count in range(1, len(parts)))


def _may_hold_app(path: str) -> bool:
    *folders, name = path.split("/")
    return len(folders) <= _MAX_DEPTH and not _NOT_APPS & {*folders, name.removesuffix(".py")} and not name.startswith("test_")


def django(snapshot: Snapshot) -> Django | None:
    """The project that manage.py names: its `WSGI_APPLICATION`, or the wsgi (asgi) module beside its settings."""
    manage = trees(snapshot, "manage.py").get("manage.py")
    settings = settings_module(manage) if manage else ""
    package = settings.partition(".")[0]
    if not package:
        return None
    as_path = settings.replace(".", "/")
    tree = next(iter(trees(snapshot, f"{as_path}.py", f"{as_path}/__init__.py", f"{as_path}/base.py").values()), None)
    for interface in ("wsgi", "asgi"):
        named = module_assigns(tree, f"{interface.upper()}_APPLICATION") if tree else None
        value = named.value if isinstance(named, ast.Constant) and is_module(named.value) else ""
        module, _, name = str(value).rpartition(".")
        if not module and snapshot.has(f"{package}/{interface}.py"):
            module, name = f"{package}.{interface}", "application"
        if module:
            found = Entry("manage.py", "", module, Application("django", interface, name))
            return Django(found, settings, bool(tree and module_assigns(tree, "STATIC_ROOT")))
    return None
