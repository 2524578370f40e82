"""What a Python file defines, read from its syntax tree: application objects, their factories, Django's settings module."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

# Constructor → (framework, interface).
APPLICATIONS = {
    "flask.Flask": ("flask", "wsgi"),
    "bottle.Bottle": ("bottle", "wsgi"),
    "falcon.App": ("falcon", "wsgi"),
    "falcon.asgi.App": ("falcon", "asgi"),
    "fastapi.FastAPI": ("fastapi", "asgi"),
    "fastapi.applications.FastAPI": ("fastapi", "asgi"),
    "starlette.applications.Starlette": ("starlette", "asgi"),
    "litestar.Litestar": ("litestar", "asgi"),
    "litestar.app.Litestar": ("litestar", "asgi"),
    "quart.Quart": ("quart", "asgi"),
    "fasthtml.common.FastHTML": ("fasthtml", "asgi"),
    "fasthtml.FastHTML": ("fasthtml", "asgi"),
    "fasthtml.common.fast_app": ("fasthtml", "asgi"),
    "fasthtml.fast_app": ("fasthtml", "asgi"),
    "blacksheep.Application": ("blacksheep", "asgi"),
    "connexion.AsyncApp": ("connexion", "asgi"),
    "connexion.FlaskApp": ("connexion", "asgi"),
    "apiflask.APIFlask": ("apiflask", "wsgi"),
    "flask_openapi3.OpenAPI": ("flask-openapi3", "wsgi"),
    "flask.app.Flask": ("flask", "wsgi"),
    "django.core.wsgi.get_wsgi_application": ("django", "wsgi"),
    "django.core.asgi.get_asgi_application": ("django", "asgi"),
}
_FACTORIES = ("create_app", "make_app", "get_app", "build_app", "app_factory", "create_application")


@dataclass(frozen=True)
class Application:
    """A WSGI (PEP 3333) or ASGI application in a module."""

    framework: str
    interface: str
    name: str
    # `name` is a function without required parameters that returns the application.
    factory: bool = False


@dataclass(frozen=True)
class _Names:
    """Local name → what it stands for, and the applications of other modules."""

    imported: dict[str, str]
    known: Mapping[str, Application]
    # Modules of which everything was imported.
    stars: tuple[str, ...] = ()


def parse(source: str) -> ast.Module | None:
    """The syntax tree; None when this Python cannot read it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def application(tree: ast.Module, module: str = "", known: Mapping[str, Application] | None = None) -> Application | None:
    """The module's application: an object first (`app`, `application`, then any name), else a factory.

    `known` are applications of the source's other modules by dotted name: an imported object, and what an imported or own
    factory returns, count as this module's. `module` of a package's own file ends in `.__init__`.
    """
    own = module.removesuffix(".__init__")
    names = _Names(_imports(ast.walk(tree), module), known or {}, _stars(tree))
    functions = [statement for statement in _top_level(tree.body) if isinstance(statement, ast.FunctionDef)]
    names.imported.update({function.name: f"{own}.{function.name}" for function in functions})
    objects = [found for statement in _top_level(tree.body) for found in _assigned(statement, names)]
    objects += _reexported(_Names(_imports(_top_level(tree.body), module), names.known))
    if objects:
        return min(objects, key=lambda found: (_rank(found.name), objects.index(found)))
    factories = [found for function in functions if (found := _factory(function, names))]
    return min(factories, key=lambda found: _FACTORIES.index(found.name)) if factories else None


def _rank(name: str) -> int:
    return ("app", "application").index(name) if name in ("app", "application") else 2


def _top_level(body: list[ast.stmt], depth: int = 0) -> Iterator[ast.stmt]:
    """Statements that run on import, those in `if` and `try` included; `if __name__ == "__main__"` does not."""
    for statement in body:
        yield statement
        if depth >= 3 or (isinstance(statement, ast.If) and _main_guard(statement)):
            continue
        if isinstance(statement, ast.If | ast.Try):
            yield from _top_level([*statement.body, *statement.orelse], depth + 1)


def _main_guard(statement: ast.If) -> bool:
    return any(isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(statement.test))


def _imports(nodes: Iterable[ast.AST], module: str = "") -> dict[str, str]:
    """Local name → what it stands for, of the imports among the nodes of `module`."""
    names: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(node, module)
            names.update({alias.asname or alias.name: f"{source}.{alias.name}" for alias in node.names})
    return names


def _stars(tree: ast.Module) -> tuple[str, ...]:
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and not node.level]
    return tuple(node.module or "" for node in imports if any(alias.name == "*" for alias in node.names))


def _absolute(node: ast.ImportFrom, module: str) -> str:
    """The module an import names; a relative one is resolved one level up, beside `module`."""
    if not node.level:
        return node.module or ""
    package = module.rpartition(".")[0]
    return ".".join(part for part in (package, node.module) if part)


def imported_modules(tree: ast.Module) -> set[str]:
    """The top-level modules a file imports."""
    return {name.partition(".")[0] for name in _imports(ast.walk(tree)).values()}


def _dotted(node: ast.expr) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def _constructed(node: ast.expr | None, names: _Names) -> tuple[str, str] | None:
    """(framework, interface) when the expression makes an application."""
    if not isinstance(node, ast.Call):
        return None
    head, dot, rest = _dotted(node.func).partition(".")
    called = names.imported.get(head, "") + dot + rest
    if head not in names.imported:
        # `from fasthtml.common import *`, as its own documentation writes it.
        called = next((f"{star}.{head}" for star in names.stars if f"{star}.{head}" in APPLICATIONS), called)
    other = names.known.get(called)
    return (other.framework, other.interface) if other and other.factory else APPLICATIONS.get(called)


def _reexported(names: _Names) -> list[Application]:
    found = ((local, names.known.get(dotted)) for local, dotted in names.imported.items())
    return [Application(other.framework, other.interface, local) for local, other in found if other and not other.factory]


def _assigned(statement: ast.stmt, names: _Names) -> list[Application]:
    if isinstance(statement, ast.Assign):
        targets, value = statement.targets, statement.value
    elif isinstance(statement, ast.AnnAssign) and statement.value:
        targets, value = [statement.target], statement.value
    else:
        return []
    kind = _constructed(value, names)
    # `app, rt = fast_app()`
    targets = [target.elts[0] if isinstance(target, ast.Tuple) and target.elts else target for target in targets]
    return [Application(*kind, target.id) for target in targets if kind and isinstance(target, ast.Name)]


def _factory(function: ast.FunctionDef, names: _Names) -> Application | None:
    arguments = function.args
    required = len(arguments.posonlyargs) + len(arguments.args) - len(arguments.defaults)
    if function.name not in _FACTORIES or required > 0 or None in arguments.kw_defaults:
        return None
    for node in ast.walk(function):
        value = node.value if isinstance(node, ast.Assign | ast.Return | ast.AnnAssign) else None
        if kind := _constructed(value, names):
            return Application(*kind, function.name, factory=True)
    return None


def is_module(value: object) -> bool:
    """Whether this is a dotted name."""
    return isinstance(value, str) and all(part.isidentifier() for part in value.split("."))


def settings_module(tree: ast.Module) -> str:
    """The module in `os.environ.setdefault("DJANGO_SETTINGS_MODULE", "…")`; empty: none."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _dotted(node.func) == "os.environ.setdefault":
            values = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            if len(values) == 2 and values[0] == "DJANGO_SETTINGS_MODULE" and is_module(values[1]):
                return str(values[1])
    return ""


def module_assigns(tree: ast.Module, name: str) -> ast.expr | None:
    """The value a module gives to a name at its top level."""
    for statement in _top_level(tree.body):
        if isinstance(statement, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in statement.targets):
            return statement.value
    return None
