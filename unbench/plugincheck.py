"""What a plugin must be before it is run, each defect in one sentence. Imports no torch."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any, get_args

from pydantic import ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import PydanticUndefined

from unbench.method import API_VERSION, Method, MethodCard, MethodConfig, MethodKind, MethodNeed

PLUGIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")
"""A name becomes a folder's, stands before colons and is typed by people."""


def one_line(problem: BaseException | str, most: int = 240) -> str:
    """What an exception says, on one line and without a closing full stop."""
    text = " ".join(str(problem).split())
    return (text if len(text) <= most else text[: most - 1] + "…").rstrip(". ")


def import_problem(what: str, problem: BaseException, mend: str) -> tuple[str, str]:
    """Sentence and next step for a module that can't be imported. ``what`` names the plugin."""
    if isinstance(problem, ModuleNotFoundError) and problem.name:
        top = problem.name.partition(".")[0]
        return f"{what} needs the package {top!r}, which isn't installed.", f"pip install {top}, or {_small(mend)}"
    if isinstance(problem, PydanticSchemaGenerationError):
        found = re.search(r"<class '([^']+)'>", str(problem)) or re.search(r"schema for ([^.]+)\.", str(problem))
        name = found[1].rpartition(".")[2] if found else "of a class"
        return f"{what} has a setting of the type {name}, which JSON can't hold.", (
            "Settings are numbers, strings, booleans, None, lists and mappings of these, or pydantic models."
        )
    if isinstance(problem, SyntaxError):
        return f"{what} can't be read as Python: line {problem.lineno}: {one_line(problem.msg)}.", mend
    return f"{what} can't be loaded: {type(problem).__name__}: {one_line(problem)}.", mend


def method_problem(loaded: Any, name: str) -> tuple[str, str] | None:
    """The first defect of a method class, as a predicate (``has no card``) and the next step; None where it has none.

    ``name`` is that under which it is registered.
    """
    where = f"{loaded.__module__}.{loaded.__qualname__}"
    api = loaded.api
    if api != API_VERSION:
        older = isinstance(api, int) and api < API_VERSION
        mend = "Get a version of the plugin for this UnBench" if older else "Update UnBench or the plugin"
        return f"was written for version {api!r} of the plugin API, and this UnBench has version {API_VERSION}", (
            f"{mend}; then set api = {API_VERSION} in {where}."
        )
    lacks = sorted(getattr(loaded, "__abstractmethods__", ()))
    if inspect.isabstract(loaded):
        return f"doesn't define {', '.join(lacks)}", f"Write it in {where}."
    card = getattr(loaded, "card", None)
    if not isinstance(card, MethodCard):
        said = "has no card" if card is None else f"has a card that is {type(card).__name__}, not MethodCard"
        return said, f"Give {where} a class attribute card = MethodCard(…)."
    return _card_problem(card, name, where) or config_problem(loaded.Config, where)


def _card_problem(card: MethodCard, name: str, where: str) -> tuple[str, str] | None:
    if not PLUGIN_NAME.fullmatch(str(card.name)):
        return f"is called {card.name!r} on its card", "Names have letters, digits, underscores, dots and hyphens."
    if card.name != name:
        return f"is called {card.name!r} on its card", f"Give the entry point and the card of {where} one name."
    if card.kind not in get_args(MethodKind):
        return f"is of the kind {card.kind!r}", f"Kinds are {', '.join(get_args(MethodKind))}."
    strange = [str(need) for need in card.needs if need not in get_args(MethodNeed)]
    if strange:
        return f"needs {', '.join(strange)}, by its card", f"Needs are {', '.join(get_args(MethodNeed))}."
    return None


def config_problem(config: Any, where: str) -> tuple[str, str] | None:
    """The first defect of a method's settings: each wants a default, and a type that a plan (JSON) can hold."""
    if not (isinstance(config, type) and issubclass(config, MethodConfig)):
        return "has a Config that is not a subclass of MethodConfig", f"Derive {where}.Config from LossConfig or it."
    try:
        config.model_rebuild()
        for key, field in config.model_fields.items():
            if field.is_required():
                return f"has no default for its setting {key!r}", "Give every setting the paper's value as default."
        defaults = config()
        config.model_json_schema()
        kept = json.loads(json.dumps(defaults.model_dump(mode="json"), allow_nan=False))
        if config.model_validate(kept) != defaults:
            return "has settings that don't come back from JSON as they were", "Use plain types in its Config."
    except PydanticUndefinedAnnotation as problem:
        return f"has a setting of an unknown type {problem.name!r}", "Import the type at the top of the module."
    except ValidationError as problem:
        first = problem.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "value"
        return f"refuses its own default of {key!r} ({one_line(first['msg'])})", f"Mend {where}.Config."
    except (PydanticUserError, ValueError, TypeError) as problem:
        bad = next((k for k, f in config.model_fields.items() if _unwritable(config, k, f)), None)
        setting = f"a setting {bad!r} of a type" if bad else "settings of a type"
        return f"has {setting} that JSON can't hold ({one_line(problem, 120)})", (
            "Settings are numbers, strings, booleans, None, lists and mappings of these, or pydantic models."
        )
    return None


def _unwritable(config: Any, key: str, field: Any) -> bool:
    from pydantic import ConfigDict as Settings
    from pydantic import TypeAdapter

    try:
        adapter: Any = TypeAdapter(field.annotation, config=Settings(arbitrary_types_allowed=True))
        adapter.json_schema()
        if field.default is not PydanticUndefined:
            json.dumps(adapter.dump_python(field.default, mode="json"), allow_nan=False)
    except Exception:
        # Whatever goes wrong with this field alone, it is the one to name.
        return True
    return False


def in_words(returned: Any) -> str:
    """What a method returned in Unlearned's place; of a model also where it lies."""
    device = getattr(returned, "device", None)
    return f"{type(returned).__name__} on {device}" if device is not None else type(returned).__name__


def is_method(loaded: Any) -> bool:
    """Whether a class is a method's, whose further defects ``method_problem`` names."""
    return isinstance(loaded, type) and issubclass(loaded, Method)


def _small(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
