"""What a plugin must be before it is run, each defect in one sentence. Imports no torch."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import PydanticUndefined

from unbench.attack import ATTACK_API, Attack, AttackCard, AttackConfig, AttackKind
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
    return (
        _class_problem(loaded, API_VERSION, MethodCard, where)
        or _card_problem(loaded.card, name, get_args(MethodKind), where)
        or _needs_problem(loaded.card)
        or config_problem(loaded.Config, where)
    )


def attack_problem(loaded: Any, name: str) -> tuple[str, str] | None:
    """The same of an attack class."""
    where = f"{loaded.__module__}.{loaded.__qualname__}"
    return (
        _class_problem(loaded, ATTACK_API, AttackCard, where)
        or _card_problem(loaded.card, name, get_args(AttackKind), where)
        or config_problem(loaded.Config, where, AttackConfig)
    )


def _class_problem(loaded: Any, version: int, card_class: type, where: str) -> tuple[str, str] | None:
    api = loaded.api
    if api != version:
        older = isinstance(api, int) and api < version
        mend = "Get a version of the plugin for this UnBench" if older else "Update UnBench or the plugin"
        return f"was written for version {api!r} of the plugin API, and this UnBench has version {version}", (
            f"{mend}; then set api = {version} in {where}."
        )
    lacks = sorted(getattr(loaded, "__abstractmethods__", ()))
    if inspect.isabstract(loaded):
        return f"doesn't define {', '.join(lacks)}", f"Write it in {where}."
    card = getattr(loaded, "card", None)
    if not isinstance(card, card_class):
        said = f"has a card that is {type(card).__name__}, not {card_class.__name__}"
        return "has no card" if card is None else said, (
            f"Give {where} a class attribute card = {card_class.__name__}(…)."
        )
    return None


def _card_problem(card: Any, name: str, kinds: Sequence[str], where: str) -> tuple[str, str] | None:
    if not PLUGIN_NAME.fullmatch(str(card.name)):
        return f"is called {card.name!r} on its card", "Names have letters, digits, underscores, dots and hyphens."
    if card.name != name:
        return f"is called {card.name!r} on its card", f"Give the entry point and the card of {where} one name."
    if card.kind not in kinds:
        return f"is of the kind {card.kind!r}", f"Kinds are {', '.join(kinds)}."
    return None


def _needs_problem(card: MethodCard) -> tuple[str, str] | None:
    strange = [str(need) for need in card.needs if need not in get_args(MethodNeed)]
    if strange:
        return f"needs {', '.join(strange)}, by its card", f"Needs are {', '.join(get_args(MethodNeed))}."
    return None


def config_problem(config: Any, where: str, base: type[BaseModel] = MethodConfig) -> tuple[str, str] | None:
    """The first defect of a plugin's settings: each wants a default, and a type that a plan (JSON) can hold."""
    if not (isinstance(config, type) and issubclass(config, base)):
        said = "LossConfig or it" if base is MethodConfig else "it"
        return f"has a Config that is not a subclass of {base.__name__}", f"Derive {where}.Config from {said}."
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


def class_problem(loaded: type[Any], name: str) -> tuple[str, str] | None:
    """The first defect of a plugin's class, whatever its kind."""
    if issubclass(loaded, Method):
        return method_problem(loaded, name)
    if issubclass(loaded, Attack):
        return attack_problem(loaded, name)
    return None if hasattr(loaded, "card") else ("has no card", f"Give {loaded.__qualname__} a class attribute 'card'.")


def _small(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
