"""``unbench check-method``: is a plugin what it must be, and does the method keep the contract (``unbench.contract``)?

Every clause is a ``Check``; a method that raises is a clause that failed, not a crash.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unbench.contract import TARGET_ADVICE, Check, check_method, folder_hash
from unbench.errors import UnbenchError
from unbench.method import Method, Progress
from unbench.plugincheck import one_line
from unbench.pluginfile import names_plugin_file, plugin_files
from unbench.plugins import choose_method, methods

if TYPE_CHECKING:
    from unbench.contract_world import World

KINDS: tuple[Literal["full", "lora"], ...] = ("full", "lora")
Found = tuple[str, Check]
"""Where a clause was checked (``load``, ``full``, ``lora``) and what came of it."""


def check_named(name: str, files: Sequence[str] = (), progress: Progress | None = None) -> Iterator[Found]:
    """Every clause for a method by its name or its file, as they are found.

    Raises ``UsageError`` where there is no such name or file; a plugin that is there but doesn't load is a failed
    clause.
    """
    is_file = names_plugin_file(name)
    named = plugin_files((name, *files) if is_file else files)
    if not is_file and not named:
        methods().find(name)
    had_torch = "torch" in sys.modules
    try:
        _, method_class = choose_method(None if is_file else name, named)
    except UnbenchError as problem:
        yield "load", Check("it can be loaded", False, problem.message.rstrip("."), problem.try_next or "")
        return
    yield "load", Check("it can be loaded", True, f"{method_class.__module__}.{method_class.__qualname__}")
    if not had_torch:
        yield "load", Check("importing it doesn't import torch", "torch" not in sys.modules, "listing must stay quick",
                            "Import torch inside the functions that need it.")  # fmt: skip
    yield from check_class(method_class, progress=progress)


def check_class(
    method_class: type[Method], folder: Path | None = None, *, progress: Progress | None = None
) -> Iterator[Found]:
    """Every clause for a method class, as they are found; a method author's test asserts that all passed.

    ``folder`` is for scratch; without one a temporary one is made and removed.
    """
    yield from (("load", check) for check in _documented(method_class))
    with tempfile.TemporaryDirectory(prefix="unbench-check-") as temporary:
        yield from _contract(method_class, folder or Path(temporary), progress)


def _documented(method_class: type[Method]) -> Iterator[Check]:
    card, fields = method_class.card, method_class.Config.model_fields
    silent = [key for key, field in fields.items() if not field.description]
    yield Check("every setting has a description", not silent, f"{', '.join(silent) or len(fields)}",
                'Give it one: Field(0.1, description="…").')  # fmt: skip
    cited = card.kind == "control" or card.bibtex.lstrip().startswith("@")
    yield Check("it can be cited", cited, "BibTeX on its card", "Put a BibTeX entry into card.bibtex.")
    wrong = []
    for where, settings in (*method_class.tuned.items(), ("contract", method_class.contract)):
        try:
            method_class.Config.model_validate(settings)
        except ValueError as problem:
            wrong.append(f"{where}: {one_line(problem, 120)}")
    yield Check("its tuned settings are settings", not wrong, "; ".join(wrong) or "Config takes them",
                "Names and values in `tuned` and `contract` are those of Config.")  # fmt: skip


def _contract(method_class: type[Method], folder: Path, progress: Progress | None) -> Iterator[Found]:
    from unbench.contract_world import build_world

    kinds = KINDS if method_class.trains else KINDS[:1]
    say = progress or (lambda description, done, total: None)
    say("making the contract's small model", 0, len(kinds) + 1)
    world = build_world(folder / "world")
    for number, kind in enumerate(kinds, start=1):
        say(f"contract, {kind} training", number, len(kinds) + 1)
        own = _copy(world, folder / kind)
        yield from ((kind, check) for check in _checks(method_class, own, folder / kind / "runs", kind))
    say("contract", len(kinds) + 1, len(kinds) + 1)


def _copy(world: World, folder: Path) -> World:
    """A world of one's own, since a bad method may change it."""
    target, reference = folder / "target", folder / "reference"
    shutil.copytree(world.target_path, target)
    shutil.copytree(world.reference_path, reference)
    return replace(world, target_path=target, reference_path=reference)


def _checks(method_class: type[Method], world: World, folder: Path, kind: Literal["full", "lora"]) -> Iterator[Check]:
    name = f"it runs with {kind} training"
    before = folder_hash(world.target_path)
    try:
        checks = check_method(method_class, world, folder, kind)
    except KeyboardInterrupt:
        raise
    except (Exception, SystemExit) as problem:
        if folder_hash(world.target_path) != before:
            yield Check("the target on disk is untouched", False, "its files were changed", TARGET_ADVICE)
        yield Check(name, False, _told(problem, method_class), _advice(problem))
        return
    yield Check(name, True, "to its end, twice" if method_class.trains else "to its end")
    yield from checks


def _told(problem: BaseException, method_class: type[Method]) -> str:
    """What was raised, and the last line of the method's own file that led there."""
    import inspect

    said = f"{type(problem).__name__}: {one_line(problem)}" if str(problem) else type(problem).__name__
    try:
        own = inspect.getfile(method_class)
    except (TypeError, OSError):
        return said
    lines = [frame.lineno for frame in traceback.extract_tb(problem.__traceback__) if frame.filename == own]
    return f"{said} (line {lines[-1]} of {Path(own).name})" if lines else said


def _advice(problem: BaseException) -> str:
    if isinstance(problem, UnbenchError):
        return problem.try_next or ""
    if isinstance(problem, SystemExit):
        return "A method returns or raises; it doesn't end the process."
    return "unlearn must return unbench.method.Unlearned(weights=folder) and run on the small model of the contract."


def as_json(name: str, found: Sequence[Found]) -> dict[str, Any]:
    """What ``--json`` prints."""
    checks = [
        {"train": where, "check": check.name, "passed": check.passed, "detail": check.detail, "advice": check.advice}
        for where, check in found
    ]
    passed = all(check.passed for _, check in found)
    return {"schema": "unbench.check-method/1", "method": name, "passed": passed, "checks": checks}
