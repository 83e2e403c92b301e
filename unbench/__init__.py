"""UnBench: an evaluation benchmark and leaderboard for LLM unlearning.

``unbench.run(method="unstar", task="bios/fact")`` runs a method; ``unbench.evaluate(model, tokenizer, task=…)`` scores
a model in memory; ``unbench.load_target(task)`` gives a target to unlearn from. Nothing heavy is imported before one of
them is called.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from unbench.api import evaluate, load_target, prepare, run
    from unbench.callback import UnlearningCallback
    from unbench.method import LossMethod, Method, UnlearnContext, Unlearned
    from unbench.results.schema import Result
    from unbench.task import Probe, Row, Task

_HOME = {
    "run": "unbench.api",
    "evaluate": "unbench.api",
    "load_target": "unbench.api",
    "prepare": "unbench.api",
    "UnlearningCallback": "unbench.callback",
    "LossMethod": "unbench.method",
    "Method": "unbench.method",
    "UnlearnContext": "unbench.method",
    "Unlearned": "unbench.method",
    "Result": "unbench.results.schema",
    "Probe": "unbench.task",
    "Row": "unbench.task",
    "Task": "unbench.task",
}

__all__ = [
    "LossMethod",
    "Method",
    "Probe",
    "Result",
    "Row",
    "Task",
    "UnlearnContext",
    "Unlearned",
    "UnlearningCallback",
    "__version__",
    "evaluate",
    "load_target",
    "prepare",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'unbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
