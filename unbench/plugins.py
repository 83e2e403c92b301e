"""Discovery of methods and tasks by entry points.

A registry is an object that is passed in, not a global. Listing reads metadata only: a plugin's module is imported when
the plugin is asked for, and one that can't be imported shows its error then.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from unbench.errors import EnvironmentProblem, UnbenchError, UsageError
from unbench.method import Method, MethodCard
from unbench.task import Split, Task

T = TypeVar("T")
OWN = "unbench"
"""The distribution whose plugins are built in."""


@dataclass(frozen=True)
class Plugin:
    """One registered name."""

    name: str
    distribution: str
    entry: EntryPoint

    @property
    def qualified(self) -> str:
        return f"{self.distribution}:{self.name}"


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

    def load(self, name: str) -> type[T]:
        """The plugin's class. Imports its module, which must not import torch."""
        return self.load_plugin(self.find(name))

    def load_plugin(self, plugin: Plugin) -> type[T]:
        try:
            loaded: Any = plugin.entry.load()
        except Exception as problem:
            raise EnvironmentProblem(
                f"{self.what.capitalize()} {plugin.qualified} can't be loaded: {type(problem).__name__}: {problem}.",
                f"Mend or uninstall the package {plugin.distribution}.",
            ) from problem
        if not (isinstance(loaded, type) and issubclass(loaded, self._base)):
            raise UsageError(
                f"{self.what.capitalize()} {plugin.qualified} is not a subclass of {self._base.__name__}.",
                f"Its entry point is {plugin.entry.value}.",
            )
        if not hasattr(loaded, "card"):
            raise UsageError(
                f"{self.what.capitalize()} {plugin.qualified} has no card.",
                f"Give {plugin.entry.value} a class attribute 'card' ({self.what.capitalize()}Card).",
            )
        return loaded


def methods() -> Registry[Method]:
    """Every installed method."""
    return Registry.from_entry_points("method", Method)  # type: ignore[type-abstract]


def tasks() -> Registry[Task]:
    """Every installed task family."""
    return Registry.from_entry_points("task", Task)  # type: ignore[type-abstract]


def method_cards() -> dict[str, MethodCard]:
    """Card of every method that can be loaded, by qualified name."""
    registry = methods()
    cards = {}
    for plugin in registry.plugins:
        try:
            cards[plugin.qualified] = registry.load_plugin(plugin).card
        except UnbenchError:
            # A broken plugin has no card; asking for it shows why.
            continue
    return cards


def open_task(name: str, split: Split = "report", data_dir: Path | None = None) -> Task:
    """``family/problem`` (or ``family``: its default problem) as a task object; ``data_dir`` is where its rows lie.

    A name that ends in .yaml or .yml, or is that of a file, opens a task of the user's own.
    """
    name = str(name)
    if names_file(name):
        return _open_file(Path(name), split, data_dir)
    family, _, problem = name.partition("/")
    _refuse_unnamed_file(name, family)
    task_class: Any = tasks().load(family)
    if data_dir is None:
        task: Task = task_class(problem or None, split=split)
    elif task_class.takes_data_dir:
        task = task_class(problem or None, split=split, data_dir=data_dir)
    else:
        raise UsageError(f"The rows of task {name!r} come with it, so it takes no --data-dir.", "Leave it out.")
    return task


def names_file(task: str) -> bool:
    """Whether a task's name is that of a file: by its ending, or because it is one and no family has that name."""
    return task.lower().endswith((".yaml", ".yml")) or (not _is_family(task) and os.path.isfile(task))


def _is_family(task: str) -> bool:
    return any(task.partition("/")[0] == plugin.name for plugin in tasks().plugins)


def _open_file(path: Path, split: Split, data_dir: Path | None) -> Task:
    from unbench.userdata.task import FileTask

    if data_dir is not None:
        raise UsageError("A task file says itself where its rows lie, so it takes no --data-dir.", "Leave it out.")
    return FileTask(path, split)


def _refuse_unnamed_file(name: str, family: str) -> None:
    """A folder that holds a task file, or the id under which one's results stand, is not yet the file's name."""
    if _is_family(name):
        return
    inside = Path(name) / "task.yaml"
    if os.path.isfile(inside):
        raise UsageError(f"{name!r} is a folder.", f"Did you mean {str(inside)!r}?")
    if family == "user":
        raise UsageError(f"{name!r} is a task of somebody's own file.", "Name the file: --task my.yaml.")
