"""What a plugin says of itself, read from its source without running it.

Listing must not import what strangers wrote: an import may fail, print, or take ten seconds for torch. So the class's
assignments are read from the syntax tree, as far as they are literals or names of literals of the same module. What
can't be read so stays empty; ``unbench methods NAME`` loads the plugin and shows all.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unbench.method import API_VERSION, MethodCard
from unbench.plugincheck import one_line

if TYPE_CHECKING:
    from unbench.plugins import Plugin

MAX_HOPS = 4
"""Re-exports that are followed (``from demo.method import Demo`` in ``demo/__init__.py``)."""


@dataclass(frozen=True)
class Described:
    """What could be read. ``error`` says why the plugin can't work, where that can be seen without running it."""

    card: MethodCard | None = None
    needs: tuple[str, ...] = ()
    tuned: tuple[str, ...] = ()
    trains: bool = True
    error: str | None = None


class _Unusable(Exception):
    """Why a plugin can't work, as a predicate."""


class _Unknown(Exception):
    """The source doesn't tell; loading the plugin may."""


def describe(plugin: Plugin) -> Described:
    """An installed plugin by its entry point."""
    module, _, name = plugin.entry.value.partition(":")
    try:
        return _of_class(*_find_class(module.strip(), name.partition("[")[0].strip()))
    except _Unusable as problem:
        return Described(error=str(problem))
    except _Unknown:
        return Described()


def describe_source(path: Path, method: str) -> Described:
    """The class in a file whose card has the name ``method``; nothing where there is none."""
    with suppress(_Unusable, _Unknown):
        tree = _parse(path)
        names = _literals(tree.body, {})
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                card, _ = _card(_assigned(node.body).get("card"), names)
                if card is not None and card.name == method:
                    return _of_class(tree, node)
    return Described()


def _of_class(tree: ast.Module, node: ast.ClassDef) -> Described:
    names = _literals(tree.body, {})
    own = _assigned(node.body)
    _refuse_visible_faults(tree, node, own, names)
    card, card_needs = _card(own.get("card"), names)
    tuned = own.get("tuned")
    keys = tuned.keys if isinstance(tuned, ast.Dict) else []
    return Described(
        card=card,
        needs=_needs(node, own, names, card_needs),
        tuned=tuple(str(_value(key, names)) for key in keys if key is not None and _value(key, names) is not None),
        trains=_value(own.get("trains"), names) is not False,
    )


def _refuse_visible_faults(
    tree: ast.Module, node: ast.ClassDef, own: dict[str, ast.expr], names: dict[str, Any]
) -> None:
    api = _value(own.get("api"), names)
    if api is not None and api != API_VERSION:
        raise _Unusable(
            f"was written for version {api!r} of the plugin API, and this UnBench has version {API_VERSION}"
        )
    if not node.decorator_list and all(isinstance(base, ast.Name) and base.id == "object" for base in node.bases):
        raise _Unusable("is not a subclass of Method")
    for statement in tree.body:
        if isinstance(statement, ast.Raise):
            raise _Unusable(f"can't be loaded: line {statement.lineno} raises {ast.unparse(statement)[6:60]}")
    for top in _imported(tree):
        if _spec_of(top) is None:
            raise _Unusable(f"needs the package {top!r}, which isn't installed")


def _imported(tree: ast.Module) -> Iterator[str]:
    """Packages that the module's own lines import, whatever happens (none in a try, an if or a function)."""
    for statement in tree.body:
        if isinstance(statement, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.level == 0 and statement.module:
            yield statement.module.partition(".")[0]


def _card(node: ast.expr | None, names: dict[str, Any]) -> tuple[MethodCard | None, tuple[str, ...]]:
    """The card and the needs it declares, from a call of MethodCard with literal arguments."""
    if not isinstance(node, ast.Call):
        return None, ()
    known = [field.name for field in fields(MethodCard)]
    given = dict(zip(known, node.args, strict=False))
    given |= {word.arg: word.value for word in node.keywords if word.arg in known}
    values = {key: value for key, one in given.items() if (value := _value(one, names)) is not None}
    needs = values.pop("needs", ())
    needs = tuple(str(one) for one in needs) if isinstance(needs, tuple | list) else ()
    texts = {key: value for key, value in values.items() if key == "year" or isinstance(value, str)}
    if not isinstance(texts.get("year", 0), int):
        del texts["year"]
    if not {"name", "title", "kind"} <= texts.keys():
        return None, needs
    return MethodCard(**{"bibtex": "", **texts}), needs


def _needs(
    node: ast.ClassDef, own: dict[str, ast.expr], names: dict[str, Any], declared: tuple[str, ...]
) -> tuple[str, ...]:
    """As ``unbench.method.needs_of``, where the class derives from LossMethod itself."""
    found = set(declared)
    if any(ast.unparse(base).rpartition(".")[2] == "LossMethod" for base in node.bases):
        settings: dict[str, ast.expr] = {}
        for inner in node.body:
            if isinstance(inner, ast.ClassDef) and inner.name == "Config":
                settings = _assigned(inner.body)
        alpha = _default(settings.get("alpha"), names)
        if alpha is None or alpha > 0:
            found.add("retain")
            if _default(settings.get("retain_loss"), names) not in (None, "nll"):
                found.add("target")
        if "needs" in own and ast.unparse(own["needs"]) != "frozenset()":
            found.add("target")
    return tuple(need for need in ("retain", "target", "generation") if need in found)


def _default(node: ast.expr | None, names: dict[str, Any]) -> Any:
    """The default of a setting: the value itself, or that of ``Field(value, …)``."""
    if isinstance(node, ast.Call):
        words = [word.value for word in node.keywords if word.arg == "default"]
        return _value((node.args or words)[0], names) if node.args or words else None
    return _value(node, names)


def _assigned(body: list[ast.stmt]) -> dict[str, ast.expr]:
    found: dict[str, ast.expr] = {}
    for statement in body:
        if isinstance(statement, ast.Assign):
            found |= {target.id: statement.value for target in statement.targets if isinstance(target, ast.Name)}
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
            found[statement.target.id] = statement.value
    return found


def _literals(body: list[ast.stmt], names: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, node in _assigned(body).items() if (value := _value(node, names)) is not None}


def _value(node: ast.AST | None, names: dict[str, Any]) -> Any:
    """A literal's value, or None."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    with suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None if node is None else ast.literal_eval(node)
    return None


def _find_class(module: str, name: str) -> tuple[ast.Module, ast.ClassDef]:
    """The class that an entry point names, through re-exports."""
    for _ in range(MAX_HOPS):
        spec = _spec_of(module)
        if spec is None:
            raise _Unusable(f"can't be loaded: there is no module {module!r}")
        if spec.origin is None or not spec.origin.endswith(".py"):
            raise _Unknown
        tree = _parse(Path(spec.origin))
        following = None
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return tree, node
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        following = _absolute(node, module, bool(spec.submodule_search_locations)), alias.name
        if following is None:
            raise _Unknown if _may_have(tree, name) else _Unusable(f"can't be loaded: {module!r} has no {name!r}")
        module, name = following
    raise _Unknown


def _may_have(tree: ast.Module, name: str) -> bool:
    """Whether a module may have a name by other means than a class or an import in its own lines."""
    return any(
        (
            isinstance(node, ast.Name | ast.FunctionDef | ast.ClassDef)
            and name == getattr(node, "id", getattr(node, "name", ""))
        )
        or (isinstance(node, ast.alias) and (node.asname or node.name) in ("*", name))
        or (isinstance(node, ast.FunctionDef) and node.name == "__getattr__")
        for node in ast.walk(tree)
    )


def _absolute(node: ast.ImportFrom, module: str, package: bool) -> str:
    """The module that a ``from … import`` names, seen from ``module``."""
    if node.level == 0:
        return node.module or ""
    parts = module.split(".")
    base = parts[: len(parts) - node.level + (1 if package else 0)]
    return ".".join([*base, *([node.module] if node.module else [])])


def _spec_of(module: str) -> ModuleSpec | None:
    """Where a module lies, by the finders of Python, without importing it or the packages above it."""
    path: Any = None
    spec: Any = None
    parts = module.split(".")
    if len(parts) == 1 and module in sys.modules:
        return ModuleSpec(module, None)
    for number in range(len(parts)):
        spec = None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            with suppress(Exception):
                spec = find(".".join(parts[: number + 1]), path) if find else None
            if spec is not None:
                break
        if spec is None:
            return None
        if spec.loader in (BuiltinImporter, FrozenImporter):
            break
        path = spec.submodule_search_locations
        if path is None and number + 1 < len(parts):
            return None
    found: ModuleSpec | None = spec
    return found


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except SyntaxError as problem:
        why = f"line {problem.lineno} of {path.name}: {one_line(problem.msg)}"
        raise _Unusable(f"can't be read as Python: {why}") from problem
    except (OSError, ValueError, RecursionError, MemoryError) as problem:
        raise _Unknown from problem
