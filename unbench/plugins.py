"""Discovery of plugins: entry points in four groups (``unbench.methods``, ``.tasks``, ``.metrics``, ``.attacks``) and
single files (``--plugin``, ``unbench.pluginfile``).

A registry is an object that is passed in, not a global. Listing reads metadata only: a plugin's module is imported when
the plugin is asked for, and one that can't be imported shows its error then.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from unbench import pluginfile
from unbench.attack import Attack
from unbench.errors import EnvironmentProblem, UnbenchError, UsageError
from unbench.method import Method, MethodCard
from unbench.plugincheck import PLUGIN_NAME, class_problem, import_problem
from unbench.pluginfile import PluginFile, plugin_files
from unbench.stdout import to_stderr
from unbench.task import Split, Task

T = TypeVar("T")
OWN = "unbench"
"""The distribution whose plugins are built in."""
Named = str | Path | PluginFile
"""A file as a caller names it: ``my_method.py``, ``my_method.py:MyMethod``."""


class Loads(Protocol):
    """What a registry wants of an entry point."""

    @property
    def value(self) -> str: ...

    def load(self) -> Any: ...


@dataclass(frozen=True)
class FileClass:
    """A class of a file, in an entry point's place; loaded already, since a file says what it holds only by running."""

    value: str
    loaded: type[Any]

    def load(self) -> type[Any]:
        return self.loaded


@dataclass(frozen=True)
class Plugin:
    """One registered name."""

    name: str
    distribution: str
    entry: EntryPoint | Loads

    @property
    def qualified(self) -> str:
        return f"{self.distribution}:{self.name}"

    @property
    def built_in(self) -> bool:
        return self.distribution == OWN

    @property
    def from_file(self) -> bool:
        return isinstance(self.entry, FileClass)


class Registry(Generic[T]):
    """The plugins of one entry-point group, in the order of their names."""

    def __init__(self, what: str, base: type[T], plugins: Iterable[Plugin]) -> None:
        self.what = what
        self._base = base
        self.plugins = tuple(sorted(plugins, key=lambda plugin: (plugin.name, plugin.distribution)))

    @classmethod
    def from_entry_points(cls, what: str, base: type[T]) -> Registry[T]:
        found = entry_points(group=f"unbench.{what}s")
        return cls(what, base, [Plugin(e.name, e.dist.name if e.dist else "unknown", e) for e in found])

    def with_files(self, files: Sequence[Named]) -> Registry[T]:
        """This registry and the plugins of single files, which are run for it. Raises ``UsageError`` where one has the
        name of a built-in, or two files have one name between them."""
        added: list[Plugin] = []
        for file in plugin_files(files):
            for one in pluginfile.classes_of(file, self._base):
                name = str(getattr(getattr(one, "card", None), "name", None) or getattr(one, "family", one.__name__))
                plugin = Plugin(name, pluginfile.DISTRIBUTION, FileClass(f"{file.name}:{one.__name__}", one))
                self._refuse_taken(plugin, added)
                added.append(plugin)
        return Registry(self.what, self._base, [*self.plugins, *added])

    def _refuse_taken(self, plugin: Plugin, added: Sequence[Plugin]) -> None:
        for other in self.plugins:
            if other.built_in and other.name == plugin.name:
                raise UsageError(
                    f"{self.what.capitalize()} {plugin.name!r} of the plugin {plugin.entry.value} has the name of "
                    f"{other.qualified}, and what is built in can't be overridden.",
                    "Give it another name.",
                )
        for other in added:
            if other.name == plugin.name:
                raise UsageError(
                    f"{self.what.capitalize()} {plugin.name!r} is there twice: {other.entry.value} and "
                    f"{plugin.entry.value}.",
                    "Give one of them another name.",
                )

    def find(self, name: str) -> Plugin:
        """The plugin called ``name``: qualified, or bare where that is unique. A built-in can't be overridden."""
        hits = [plugin for plugin in self.plugins if name in (plugin.name, plugin.qualified)]
        built_in = [plugin for plugin in hits if plugin.distribution == OWN]
        if built_in:
            hits = built_in
        if len(hits) == 1:
            return hits[0]
        if hits:
            both = " and ".join(plugin.qualified for plugin in hits)
            raise UsageError(f"{self.what.capitalize()} {name!r} is registered twice: {both}.", "Give the full name.")
        names = [plugin.name for plugin in self.plugins]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"'unbench {self.what}s' lists them."
        raise UsageError(f"There is no {self.what} called {name!r}.", hint)

    def shortest(self, plugin: Plugin) -> str:
        """The bare name where it finds this plugin, else the qualified one."""
        same = [other for other in self.plugins if other.name == plugin.name]
        return plugin.name if plugin.built_in or len(same) == 1 else plugin.qualified

    def collision(self, plugin: Plugin) -> str | None:
        """Which other plugins have its name, as a predicate; None where none has. What is built in has no rivals."""
        rivals = [other for other in self.plugins if other.name == plugin.name and other is not plugin]
        if plugin.built_in or not rivals:
            return None
        built_in = [other.qualified for other in rivals if other.built_in]
        what = (
            f"has the name of {built_in[0]}, which is built in"
            if built_in
            else (f"shares its name with {' and '.join(other.qualified for other in rivals)}")
        )
        return f"{what}; it goes by its full name alone"

    def load(self, name: str) -> type[T]:
        """The plugin's class. Imports its module, which must not import torch."""
        return self.load_plugin(self.find(name))

    def load_plugin(self, plugin: Plugin) -> type[T]:
        """The class of one plugin; what its module prints goes to stderr. Raises ``EnvironmentProblem`` where it can't
        be imported, ``UsageError`` where it isn't what a plugin of this kind must be."""
        said = f"{self.what.capitalize()} {plugin.qualified}"
        if not PLUGIN_NAME.fullmatch(plugin.name):
            raise UsageError(
                f"{said} has a name that can't be a folder's.",
                "Rename it on its card." if plugin.from_file else f"Rename it in the package {plugin.distribution}.",
            )
        try:
            with nullcontext() if plugin.built_in else to_stderr():
                loaded: Any = plugin.entry.load()
        except KeyboardInterrupt:
            raise
        except BaseException as problem:
            mend = f"Mend or uninstall the package {plugin.distribution}."
            raise EnvironmentProblem(*import_problem(said, problem, mend)) from problem
        if not (isinstance(loaded, type) and issubclass(loaded, self._base)):
            raise UsageError(
                f"{said} is not a subclass of {self._base.__name__}.", f"Its entry point is {plugin.entry.value}."
            )
        defect = class_problem(loaded, plugin.name)
        if defect:
            raise UsageError(f"{said} {defect[0]}.", defect[1])
        return loaded


def methods(files: Sequence[Named] = ()) -> Registry[Method]:
    """Every installed method, and those of the files."""
    return Registry.from_entry_points("method", Method).with_files(files)  # type: ignore[type-abstract]


def tasks(files: Sequence[Named] = ()) -> Registry[Task]:
    """Every installed task family, and those of the files."""
    return Registry.from_entry_points("task", Task).with_files(files)  # type: ignore[type-abstract]


def attacks(files: Sequence[Named] = ()) -> Registry[Attack]:
    """Every installed attack, and those of the files."""
    return Registry.from_entry_points("attack", Attack).with_files(files)  # type: ignore[type-abstract]


def metrics() -> Registry[object]:
    """Every installed metric: UnBench has no base class for them, so they are listed by their metadata alone."""
    return Registry.from_entry_points("metric", object)


def refuse_idle(files: Sequence[Named]) -> None:
    """Raises ``UsageError`` for a file that holds no plugin at all, saying what it holds."""
    for file in plugin_files(files):
        if not any(pluginfile.classes_of(file, base) for base in (Method, Task, Attack)):
            raise pluginfile.no_plugin(file)


def choose_method(name: str | None, files: Sequence[Named], default: str = "unstar") -> tuple[Plugin, type[Method]]:
    """The method called ``name``; where none is named, the single method of the files, else the default.

    Raises ``UsageError`` where the files hold several, or where a file holds no plugin at all.
    """
    refuse_idle(files)
    registry = methods(files)
    own = [plugin for plugin in registry.plugins if plugin.from_file]
    if name is None and len(own) > 1:
        raise UsageError(
            f"The plugins hold {len(own)} methods: {', '.join(plugin.name for plugin in own)}.",
            "Say which: --method, or --plugin FILE.py:CLASS.",
        )
    plugin = registry.find(name or default) if name or not own else own[0]
    return plugin, registry.load_plugin(plugin)


def method_cards(runs: Mapping[str, str] | None = None) -> dict[str, MethodCard]:
    """Card of every method, by qualified name. A plugin's is read from its source without running it, so a broken one
    harms no page. ``runs`` maps the names of methods that were files (``file:demo``) to folders of their runs, where
    the file was kept."""
    from unbench.plugincard import describe, describe_source

    registry = methods()
    cards = {}
    for plugin in registry.plugins:
        try:
            card = registry.load_plugin(plugin).card if plugin.built_in else describe(plugin).card
        except UnbenchError:
            continue
        if card is not None:
            cards[plugin.qualified] = card
    for name, folder in (runs or {}).items():
        for kept in sorted(Path(folder).glob("plugin*.py")) if name.startswith(f"{pluginfile.DISTRIBUTION}:") else ():
            found = describe_source(kept, name.partition(":")[2]).card
            if found is not None:
                cards[name] = found
    return cards


def open_task(name: str, split: Split = "report", data_dir: Path | None = None, files: Sequence[Named] = ()) -> Task:
    """``family/problem`` (or ``family``: its default problem) as a task object; ``data_dir`` is where its rows lie.

    A name that ends in .yaml or .yml, or is that of a file, opens a task of the user's own. ``files`` are plugins that
    may hold the family.
    """
    name = str(name)
    if names_file(name, files):
        return _open_file(Path(name), split, data_dir)
    family, _, problem = name.partition("/")
    _refuse_unnamed_file(name, family, files)
    task_class: Any = tasks(files).load(family)
    if data_dir is None:
        task: Task = task_class(problem or None, split=split)
    elif task_class.takes_data_dir:
        task = task_class(problem or None, split=split, data_dir=data_dir)
    else:
        raise UsageError(f"The rows of task {name!r} come with it, so it takes no --data-dir.", "Leave it out.")
    return task


def names_file(task: str, files: Sequence[Named] = ()) -> bool:
    """Whether a task's name is that of a file: by its ending, or because it is one and no family has that name."""
    return task.lower().endswith((".yaml", ".yml")) or (not _is_family(task, files) and os.path.isfile(task))


def _is_family(task: str, files: Sequence[Named]) -> bool:
    return any(task.partition("/")[0] == plugin.name for plugin in tasks(files).plugins)


def _open_file(path: Path, split: Split, data_dir: Path | None) -> Task:
    from unbench.userdata.task import FileTask

    if data_dir is not None:
        raise UsageError("A task file says itself where its rows lie, so it takes no --data-dir.", "Leave it out.")
    return FileTask(path, split)


def _refuse_unnamed_file(name: str, family: str, files: Sequence[Named]) -> None:
    """A folder that holds a task file, or the id under which one's results stand, is not yet the file's name."""
    if _is_family(name, files):
        return
    inside = Path(name) / "task.yaml"
    if os.path.isfile(inside):
        raise UsageError(f"{name!r} is a folder.", f"Did you mean {str(inside)!r}?")
    if family == "user":
        raise UsageError(f"{name!r} is a task of somebody's own file.", "Name the file: --task my.yaml.")
