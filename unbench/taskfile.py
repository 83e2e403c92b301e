"""Reading a task's YAML so that every mistake names its file and line.

pydantic says *what* is wrong with a value, yaml's node tree says *where* it stands; ``load_yaml`` joins the two. A task
author sees "tasks/facts/data/x.yaml, line 12: target 'hogwarts': field 'relation' is missing."
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from unbench.errors import UsageError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Model = TypeVar("Model", bound=BaseModel)
Place = tuple[str | int, ...]
"""Where a value stands in a document: keys and list positions from the top."""

TRY_NEXT = "Mend the file and run the same command again."

# The C loader reads a task's thousand facts in a fraction of the time; it is absent from some builds of PyYAML.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Document:
    """A YAML file as plain Python values, with the line (from 1) of everything in it."""

    path: Path
    values: Any
    lines: dict[Place, int]

    def line(self, place: Sequence[str | int]) -> int:
        """Line of ``place``, or of the nearest thing around it that exists (a missing field has no line itself)."""
        place = tuple(place)
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)

    def error(self, place: Sequence[str | int], problem: str) -> UsageError:
        """A ``UsageError`` that names file, line and the entry around ``place``; ``problem`` is the rest."""
        entry = self._entry(place)
        where = f"{shown(self.path)}, line {self.line(place)}: "
        return UsageError(f"{where}{entry + ': ' if entry else ''}{problem}", TRY_NEXT)

    def parse(self, model: type[Model]) -> Model:
        """The document as ``model``; raises ``UsageError`` for the first mistake in the order of the file."""
        try:
            return model.model_validate(self.values)
        except ValidationError as invalid:
            errors = sorted(invalid.errors(include_url=False), key=lambda error: self.line(error["loc"]))
            more = f" ({len(errors) - 1} more after this one.)" if len(errors) > 1 else ""
            raise self.error(errors[0]["loc"], _explain(errors[0], model) + more) from None

    def _entry(self, place: Sequence[str | int]) -> str:
        """Names the list entry around ``place``: "target 'hogwarts'", or "entry 3 of 'rows'" where it has no id."""
        value, found, key = self.values, "", ""
        for step in place:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                break
            if isinstance(step, str):
                key = step
            elif isinstance(value, dict) and isinstance(value.get("id"), str):
                found = f"{key.removesuffix('s')} {value['id']!r}"
            elif isinstance(value, dict):
                here = f"entry {step + 1} of {key!r}"
                found = f"{found}, {here}" if found else here
        return found


def load_yaml(path: str | Path, model: type[Model]) -> Model:
    """Reads one YAML file into a pydantic model.

    Raises ``UsageError`` naming file and line for a missing file, YAML that doesn't parse, a key given twice, a missing
    or unknown field and a value of the wrong type.
    """
    return read_yaml(path).parse(model)


def read_yaml(path: str | Path) -> Document:
    """Reads one YAML file without validating it, for loaders that check one file against another."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{shown(path)}: there is no such file.", "Check its name and folder.") from None
    except (OSError, UnicodeDecodeError) as unreadable:
        raise UsageError(f"{shown(path)}: can't be read ({unreadable}).", TRY_NEXT) from None
    lines: dict[Place, int] = {}
    loader = _LOADER(text)
    try:
        root = loader.get_single_node()
        if root is None:
            raise UsageError(f"{shown(path)}, line 1: the file is empty.", TRY_NEXT)
        values = _build(loader, root, (), lines, path)
    except yaml.MarkedYAMLError as broken:
        mark = broken.problem_mark or broken.context_mark
        raise UsageError(
            f"{shown(path)}, line {mark.line + 1 if mark else 1}: this is not valid YAML ({broken.problem}).", TRY_NEXT
        ) from None
    except yaml.YAMLError as broken:
        raise UsageError(f"{shown(path)}: this is not valid YAML ({broken}).", TRY_NEXT) from None
    finally:
        loader.dispose()
    return Document(path, values, lines)


def shown(path: Path) -> str:
    """The path as a reader knows it: from the working folder where it lies inside."""
    try:
        return path.resolve().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return str(path)


def _build(loader: Any, node: yaml.Node, place: Place, lines: dict[Place, int], path: Path) -> Any:
    lines[place] = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, child, (*place, i), lines, path) for i, child in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    values: dict[Any, Any] = {}
    for key_node, child in node.value:
        line = key_node.start_mark.line + 1
        key = loader.construct_object(key_node) if isinstance(key_node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            raise UsageError(
                f"{shown(path)}, line {line}: the key {key!r} is not text; put quotes around it.", TRY_NEXT
            )
        if key in values:
            raise UsageError(f"{shown(path)}, line {line}: field {key!r} is given twice.", TRY_NEXT)
        values[key] = _build(loader, child, (*place, key), lines, path)
        lines[(*place, key)] = line  # the key's own line reads better than that of a block value under it
    return values


def _explain(error: ErrorDetails, model: type[BaseModel]) -> str:
    """One pydantic error in one sentence."""
    field = next((step for step in reversed(error["loc"]) if isinstance(step, str)), "")
    named = f"field {field!r}" if field else "the file"
    if error["type"] == "missing":
        return f"{named} is missing."
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(field, sorted(_fields(model)), n=1)
        return f"{named} is unknown{f'; did you mean {close[0]!r}?' if close else '.'}"
    if error["type"] == "value_error":
        return f"{named}: {error['msg'].removeprefix('Value error, ')}."
    message = error["msg"][:1].lower() + error["msg"][1:]
    got = error["input"]
    return f"{named}: {message}, not {got!r}." if not isinstance(got, dict | list) else f"{named}: {message}."


def _fields(model: type[BaseModel]) -> set[str]:
    """Field names (aliases, where there are any) of a model and of every model inside it."""
    names: set[str] = set()
    for definition in (schema := model.model_json_schema()).get("$defs", {}).values():
        names.update(definition.get("properties", {}))
    return names | set(schema.get("properties", {}))
