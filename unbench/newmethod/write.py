"""Fill in the templates: a folder with a method, its test and its card, or an installable package of them; a folder
with an attack."""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from unbench import __version__
from unbench.attack import ATTACK_API
from unbench.errors import UsageError
from unbench.method import API_VERSION
from unbench.newfolder import write_new
from unbench.plugins import Registry, attacks, methods

NAME = re.compile(r"[a-z][a-z0-9_]{1,39}")


@dataclass(frozen=True)
class Written:
    """What lies in the new folder."""

    folder: Path
    file: Path
    """The method or the attack."""
    installed: bool
    """Whether it is a package, which is installed before it is run."""


def write_method(name: str, out: Path = Path(), *, package: bool = False) -> Written:
    """Writes the folder ``out/name``, whole or not at all.

    Raises ``UsageError`` for a name that can't be a method's and where something of that name is there already,
    ``EnvironmentProblem`` where the folder can't be written.
    """
    _refuse_name(name, methods())
    folder = out / name
    texts = _texts(name, package)
    write_new(folder, texts)
    return Written(folder, folder / next(file for file in texts if file.endswith(_method_file(name, package))), package)


def write_attack(name: str, out: Path = Path()) -> Written:
    """The same for an attack, which is a single file. Raises as ``write_method``."""
    _refuse_name(name, attacks())
    own = {"NAME": name, "CLASS": _class_name(name), "YEAR": _year(), "API": str(ATTACK_API)}
    files = {f"{name}.py": "attack.py.txt", f"test_{name}.py": "test_attack.py.txt", "README.md": "ATTACK.md"}
    write_new(out / name, {file: _filled(template, own) for file, template in files.items()})
    return Written(out / name, out / name / f"{name}.py", False)


def _class_name(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _year() -> str:
    return str(datetime.now(UTC).year)


def _filled(template: str, own: Mapping[str, str]) -> str:
    # Longest first, so that a name within a longer one is left alone.
    pattern = re.compile(r"\b(" + "|".join(sorted(own, key=len, reverse=True)) + r")(?=\b|unbench)")
    text = files("unbench.newmethod").joinpath("template", template).read_text(encoding="utf-8")
    return pattern.sub(lambda found: own[found[1]], text)


def _method_file(name: str, package: bool) -> str:
    return f"unbench_{name}/method.py" if package else f"{name}.py"


def _texts(name: str, package: bool) -> dict[str, str]:
    """Every file of the new folder, by path."""
    module = f"unbench_{name}"
    own = {
        "NAMEPLUGIN": name if package else f"{name} --plugin {name}.py",
        "NAME": name,
        "CLASS": _class_name(name),
        "YEAR": _year(),
        "API": str(API_VERSION),
        "IMPORT": f"{module}.method" if package else name,
        "DISTRIBUTION": f"unbench-{name.replace('_', '-')}",
        "PACKAGE": module,
        "VERSION": __version__,
        "INSTALL": "pip install -e .\n" if package else "",
        "CHECK": name if package else f"{name}.py",
        "RUN": f"--method {name}" if package else f"--plugin {name}.py",
    }

    def filled(file: str) -> str:
        return _filled(file, own)

    texts = {_method_file(name, package): filled("method.py.txt"), "README.md": filled("README.md")}
    if not package:
        return {**texts, f"test_{name}.py": filled("test_method.py.txt")}
    texts[f"{module}/__init__.py"] = f'"""{name}, a method for UnBench."""\n'
    return {
        **texts,
        "tests/test_method.py": filled("test_method.py.txt"),
        "pyproject.toml": filled("pyproject.toml.txt"),
    }


def _refuse_name(name: str, registry: Registry[Any]) -> None:
    """One sentence for each way in which a name can't be a module's, a class's and a plugin's at once."""
    what = registry.what
    article = "an" if what == "attack" else "a"
    command = f"unbench new-{what}"
    example = f"For example: {command} my_{what}."
    if "/" in name or "\\" in name or name in (".", ".."):
        raise UsageError(f"{name!r} is a path, not a name.", "Give the folder with --out, and a name alone.")
    if not name.isascii():
        raise UsageError(f"{name!r} has letters beyond a to z, which can't be typed everywhere.", example)
    if name[:1].isdigit():
        raise UsageError(f"{name!r} begins with a digit, and a Python module can't.", example)
    if not NAME.fullmatch(name):
        better = re.sub(r"\W+", "_", name.lower()).strip("_")[:40]
        hint = f"For example: {command} {better}." if NAME.fullmatch(better) else example
        raise UsageError(
            f"{name!r} can't name {article} {what}: it takes 2 to 40 small letters, digits and underscores.", hint
        )
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise UsageError(f"{name!r} is a word of the Python language.", example)
    if name in sys.stdlib_module_names or name in ("unbench", "torch", "numpy", "pytest", "conftest"):
        raise UsageError(f"{name!r} is the name of a module that Python has already.", example)
    for plugin in registry.plugins:
        if plugin.name == name:
            raise UsageError(
                f"There is {article} {what} called {name!r} already ({plugin.qualified}).", "Take another name."
            )
