"""One Python file as a plugin: ``--plugin my_method.py``, or ``my_method.py:MyMethod`` for one class of it.

The file is run once, under a module name that holds its hash, so that two versions never mix; it is entered in
``sys.modules`` (pydantic and pickle look there) and ``sys.path`` is left as it is. Its bytes are read once: what is
hashed is what runs and what is kept with the run.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from unbench.errors import EnvironmentProblem, UsageError
from unbench.stdout import to_stderr

DISTRIBUTION = "file"
"""Stands in a file's qualified names where a package's distribution would: ``file:my_method``."""
LARGEST = 1_000_000
"""Bytes; a file of code is smaller."""


class PluginFile(BaseModel):
    """A file that was named by ``--plugin``, as it stands in a plan."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(description="name of the file")
    hash: str = Field(description="SHA-256 over the file")
    cls: str | None = Field(default=None, description="the one class that was asked for; else all of the file's")
    path: str | None = Field(default=None, description="where the file lies on this machine; not in results")

    @property
    def spec(self) -> str:
        """What ``--plugin`` takes."""
        return f"{self.path}:{self.cls}" if self.cls else str(self.path)

    def source(self) -> bytes:
        """The file's bytes. Raises ``UsageError`` where they aren't those of the plan."""
        if self.path is None:
            raise UsageError(f"The plan doesn't say where the plugin {self.name} lies.", "Name it: --plugin.")
        source = _read(Path(self.path))
        if hashlib.sha256(source).hexdigest() != self.hash:
            raise UsageError(
                f"The plugin {self.path} has changed since the plan was made.", "Start again, without --resume."
            )
        return source


def plugin_files(specs: Sequence[str | Path | PluginFile]) -> tuple[PluginFile, ...]:
    """The files that were named, each once, hashed and not yet run. Raises ``UsageError`` naming one that isn't there.

    One path alone is taken as well, since a string is a sequence of letters.
    """
    if isinstance(specs, str | Path):
        specs = (specs,)
    return tuple(dict.fromkeys(one if isinstance(one, PluginFile) else _file(str(one)) for one in specs))


def names_plugin_file(text: str) -> bool:
    """Whether a name is that of a Python file (``unbench check-method`` takes either)."""
    path, _ = _split(text)
    return path.endswith(".py")


def classes_of(file: PluginFile, base: type) -> list[type[Any]]:
    """The classes of a file that are plugins of one kind (subclasses of ``base``), in the order of their lines.

    Raises ``UsageError`` where the class that was asked for isn't there, ``EnvironmentProblem`` where the file doesn't
    run.
    """
    module = load_module(file)
    if file.cls is not None:
        found = getattr(module, file.cls, None)
        if found is None:
            own = ", ".join(_classes(module)) or "none"
            raise UsageError(f"The plugin {file.name} has no {file.cls!r}.", f"Its classes: {own}.")
        return [found] if isinstance(found, type) and issubclass(found, base) else []
    # What was only imported, or is there to be inherited from, is no plugin of this file.
    return [one for one in _classes(module).values() if issubclass(one, base) and not inspect.isabstract(one)]


def no_plugin(file: PluginFile) -> UsageError:
    """The error of a file (or the class asked for) that holds no plugin of any kind, saying what is there."""
    module = load_module(file)
    next_step = "Write a subclass of unbench.method.LossMethod or Method; 'unbench new-method' writes one."
    if file.cls is not None:
        return UsageError(
            f"{file.cls!r} in the plugin {file.name} is not a subclass of Method, Task or Attack.", next_step
        )
    for name, one in _classes(module).items():
        lacks = sorted(getattr(one, "__abstractmethods__", ()))
        if lacks:
            return UsageError(
                f"The class {name} in the plugin {file.name} doesn't define {', '.join(lacks)}.", next_step
            )
    own = list(_classes(module))
    if not own:
        return UsageError(f"The plugin {file.name} defines no class.", next_step)
    said = f"{own[0]} is" if len(own) == 1 else f"{', '.join(own)} are"
    return UsageError(f"In the plugin {file.name}, {said} not a subclass of Method, Task or Attack.", next_step)


def load_module(file: PluginFile) -> ModuleType:
    """Run the file, once for each of its versions, and return its module. What it prints goes to stderr."""
    from unbench.plugincheck import import_problem

    stem = re.sub(r"\W", "_", Path(file.name).stem)
    name = f"unbench_plugin_{stem}_{file.hash[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    source, path = file.source(), str(file.path)
    module = ModuleType(name)
    module.__file__ = path
    module.__spec__ = ModuleSpec(name, None, origin=path)
    sys.modules[name] = module
    try:
        with to_stderr():
            exec(compile(source, path, "exec"), module.__dict__)
    except KeyboardInterrupt:
        del sys.modules[name]
        raise
    except BaseException as problem:
        del sys.modules[name]
        raise EnvironmentProblem(*import_problem(f"The plugin {file.name}", problem, f"Mend {path}.")) from problem
    return module


def _classes(module: ModuleType) -> dict[str, type[Any]]:
    """The classes that a module itself defines."""
    return {
        name: one for name, one in vars(module).items() if isinstance(one, type) and one.__module__ == module.__name__
    }


def _split(spec: str) -> tuple[str, str | None]:
    path, colon, name = spec.rpartition(":")
    return (path, name) if colon and path.endswith(".py") and name.isidentifier() else (spec, None)


def _file(spec: str) -> PluginFile:
    text, cls = _split(spec)
    path = Path(text).expanduser()
    if path.is_dir():
        raise UsageError(f"The plugin {text!r} is a folder.", "Name a file: --plugin my_method.py.")
    if path.suffix != ".py":
        raise UsageError(f"The plugin {text!r} is no Python file.", "--plugin takes FILE.py or FILE.py:CLASS.")
    source = _read(path)
    return PluginFile(name=path.name, hash=hashlib.sha256(source).hexdigest(), cls=cls, path=str(path.resolve()))


def _read(path: Path) -> bytes:
    try:
        if path.is_file() and path.stat().st_size > LARGEST:
            raise UsageError(f"The plugin {path} has more than {LARGEST:,} bytes.", "Make a package of it.")
        return path.read_bytes()
    except (OSError, ValueError) as problem:
        why = getattr(problem, "strerror", None) or str(problem)
        raise UsageError(
            f"The plugin {str(path)!r} can't be read: {why}.", "Name a Python file: --plugin."
        ) from problem
